"""Training throughput: our loop against a bare step in the same setting, and against the usual loop. See README.md."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from usual import images_per_second as usual_loop

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    phase = {"epochs": 2, "batch_size": config["batch_size"], "image_budget": 0, "ema": 0.99}
    return [rdf.Cell(name, {"recipe": {"model": {"name": name}, "phase1": phase}}) for name in config["models"]]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config, batch, recipe = lab.config, lab.config["batch_size"], lab.recipe()
    images = rdf.image_set_from_arrays(lab.images.data[: config["images"]], lab.images.labels[: config["images"]])
    share = (config["steps"] + 0.5) * batch / len(images)
    parts = {"train": share, "val": 0.02, "cal": 0, "test": 0.98 - share}
    split = rdf.make_split(images, rdf.SplitConfig(**parts, near_copies=False))

    def build() -> rdf.Detector:
        return rdf.build_detector(recipe.model, images.size)[0]

    speed = rdf.load_config("full", speed={"device": lab.device}).speed
    setting = rdf.setting_for(build, images.size, batch, speed, {}, None)
    plain = rdf.setting_for(build, images.size, batch, speed.model_copy(update={"own_gradients": False}), {}, None)
    seen: dict[str, list[float]] = {"library": [], "bare": [], "ours": [], "usual": []}
    for _ in range(config["pairs"]):
        seen["library"].append(rdf.training_rate(build(), images.size, batch, plain, config["steps"]))
        seen["bare"].append(rdf.training_rate(build(), images.size, batch, setting, config["steps"]))
        seen["ours"].append(ours(split, cell.name, recipe, setting))
        usual = [usual_loop(recipe, images, batch, config["steps"], workers, setting) for workers in config["workers"]]
        seen["usual"].append(max(usual))
    return {
        "setting": f"{setting.precision} {setting.memory_format}, {setting.threads} threads, {setting.device}",
        **{f"{name} images/s": round(statistics.median(rates), 1) for name, rates in seen.items()},
        "bare / library": ratio(seen["bare"], seen["library"]),
        "ours / bare": ratio(seen["ours"], seen["bare"]),
        "ours / usual": ratio(seen["ours"], seen["usual"]),
        "of each pair": " · ".join(f"{x / y:.2f}" for x, y in zip(seen["ours"], seen["usual"], strict=True)),
    }


def ours(split: rdf.Split, name: str, recipe: rdf.Recipe, setting: rdf.Setting) -> float:
    """Images per second of our training loop with everything on, as the run's own history records it."""
    recipe = recipe.model_copy(update={"phase2": recipe.phase2.model_copy(update={"epochs": 0, "select": "last"})})
    with tempfile.TemporaryDirectory() as folder:
        rdf.fit(rdf.Job(name, recipe, Path(folder), setting, save_every=1e9), split)
        rows = [json.loads(line) for line in (Path(folder) / "base-history.jsonl").read_text().splitlines()]
    return float(rows[-1]["images_per_second"])


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    rdf.experiment_main(__file__)
