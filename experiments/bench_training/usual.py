"""The loop that most notebooks use: PIL transforms image by image, a DataLoader, fp32, NCHW.

It runs in a process of its own, as it does at its users': what ours sets for a whole process does not speed it up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import robustbench_df as rdf

WARM_UP = 3
"""Batches that are not timed, as many as `rdf.training_rate` leaves out: workers start, kernels are chosen."""


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, images: rdf.ImageSet, augment: rdf.AugmentConfig) -> None:
        self.pictures = [Image.fromarray(p.transpose(1, 2, 0)) for p in images.data]
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(augment.flip),
                transforms.RandomRotation(augment.rotation),
                transforms.ColorJitter(augment.brightness, augment.contrast, augment.saturation),
                transforms.RandomPerspective(augment.perspective, p=1.0),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[k]), self.labels[k]


def images_per_second(
    recipe: rdf.Recipe, images: rdf.ImageSet, batch: int, steps: int, workers: int, setting: rdf.Setting
) -> float:
    """The rate of `loop` in a process of its own, on the same images, threads and device."""
    with tempfile.TemporaryDirectory() as place:
        np.savez(Path(place) / "images.npz", data=images.data, labels=images.labels)
        (Path(place) / "recipe.json").write_text(recipe.model_dump_json())
        numbers = [str(number) for number in (batch, steps, workers, setting.threads)]
        command = [sys.executable, __file__, place, setting.device, *numbers]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def loop(
    detector: rdf.Detector,
    images: rdf.ImageSet,
    augment: rdf.AugmentConfig,
    batch: int,
    steps: int,
    workers: int,
    device: str,
) -> float:
    detector.to(device)
    loader = DataLoader(Pictures(images, augment), batch, shuffle=True, num_workers=workers, drop_last=True)
    optimizer = torch.optim.AdamW(detector.train().parameters(), 1e-4)
    done = 0
    for x, y in loader:
        if done == WARM_UP:
            start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(detector(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        if done == WARM_UP + steps:
            break
    loss.item()  # waits for the device
    return batch * (done - WARM_UP) / (time.perf_counter() - start)


if __name__ == "__main__":
    folder, where = Path(sys.argv[1]), sys.argv[2]
    size, count, helpers, threads = (int(number) for number in sys.argv[3:])
    torch.set_num_threads(threads)
    with np.load(folder / "images.npz") as stored:
        pictures = rdf.image_set_from_arrays(stored["data"], stored["labels"])
    chosen = rdf.Recipe.model_validate(json.loads((folder / "recipe.json").read_text()))
    built = rdf.build_detector(chosen.model, pictures.size)[0]
    print(loop(built, pictures, chosen.augment, size, count, helpers, where))
