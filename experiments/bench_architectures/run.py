"""What every architecture of the registry takes to answer and to learn, beside one reference. See README.md."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    """The whole registry, unless ``models`` names some of it."""
    return [rdf.Cell(name) for name in config.get("models", rdf.MODELS)]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config = lab.config
    own, other = Timed(lab, cell.name), Timed(lab, config["reference"])
    answers, learns = [], []
    for _ in range(config["pairs"]):
        answers.append((own.answering(**config["answering"]), other.answering(**config["answering"])))
        learns.append((own.learning(config["learning"]["steps"]), other.learning(config["learning"]["steps"])))
    setting = own.setting
    return {
        "answering, ms per image": 1000 * statistics.median(mine for mine, _ in answers),
        "× the reference": statistics.median(mine / theirs for mine, theirs in answers),
        "learning, images/s": statistics.median(mine for mine, _ in learns),
        "× slower than the reference": statistics.median(theirs / mine for mine, theirs in learns),
        "setting": f"{setting.precision} {setting.memory_format}, {setting.threads} threads, {setting.device}",
    }


class Timed:
    """One architecture on the images' size, with the setting that the probe finds best for its training."""

    def __init__(self, lab: rdf.Lab, name: str) -> None:
        self.images, self.recipe = lab.images, lab.recipe(model={"name": name})
        self.batch = lab.config["learning"]["batch_size"]
        speed = rdf.load_config("full", speed={"device": lab.device}).speed
        self.setting = rdf.setting_for(self.build, self.images.size, self.batch, speed, {}, None)
        self.detector = self.build().eval().to(self.setting.device)

    def build(self) -> rdf.Detector:
        return rdf.build_detector(self.recipe.model, self.images.size)[0]

    def answering(self, batch_size: int, calls: int) -> float:
        """Median seconds per image of a whole batch, fp32, channels last, after a call that is not counted."""
        x = torch.from_numpy(self.images.data[:batch_size]).float().to(self.setting.device) / 255
        x = x.contiguous(memory_format=torch.channels_last)
        took = []
        with torch.inference_mode():
            for _ in range(1 + calls):
                start = time.perf_counter()
                self.detector(x).cpu()  # waits for the device
                took.append(time.perf_counter() - start)
        return statistics.median(took[1:]) / len(x)

    def learning(self, steps: int) -> float:
        """Images per second of bare training steps."""
        return rdf.training_rate(self.build(), self.images.size, self.batch, self.setting, steps)


if __name__ == "__main__":
    rdf.experiment_main(__file__)
