"""What a network needs in memory, in a process of its own: it begins with nothing that an earlier one has left."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch

import robustbench_df as rdf


def peaks(recipe: rdf.Recipe, size: tuple[int, int], device: str) -> dict[str, float]:
    """Return the peaks in MiB of answering and of learning a batch of the recipe, in fp32, channels last.

    Counted is everything from building the network on: weights, activations and, when it learns, gradients and AdamW's
    moments; not the interpreter and torch, which were there before.
    """
    asked = {"model": recipe.model.model_dump(mode="json"), "batch": recipe.phase1.batch_size, "size": size}
    command = [sys.executable, __file__, json.dumps({**asked, "device": device})]
    said: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return said


def measured(model: dict[str, Any], batch: int, size: tuple[int, int], device: str) -> dict[str, float | None]:
    setting = rdf.Setting(device, "fp32", "channels_last", torch.get_num_threads())
    where = torch.device(device)

    def build() -> rdf.Detector:
        return rdf.build_detector(rdf.ModelConfig(**model), size)[0].to(where, memory_format=torch.channels_last)

    def answer() -> None:
        with torch.no_grad():
            build().eval()(torch.rand(batch, 3, *size, device=where).contiguous(memory_format=torch.channels_last))

    def learn() -> None:
        rdf.training_rate(build(), size, batch, setting, steps=1)

    # Building and learning once, something tiny, imports what they need: that is not counted.
    tiny = rdf.build_detector(rdf.ModelConfig(name="image_statistics", pretrained="never"), size)[0]
    rdf.training_rate(tiny, size, 2, setting, steps=1)
    build()
    peaks = {"answering (MiB)": rdf.working_memory(answer, where), "learning (MiB)": rdf.working_memory(learn, where)}
    return {name: None if peak is None else round(peak / 2**20, 1) for name, peak in peaks.items()}


if __name__ == "__main__":
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
