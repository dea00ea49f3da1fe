"""The loop that most notebooks use: PIL transforms image by image, a DataLoader, fp32, NCHW."""

from __future__ import annotations

import time

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import robustbench_df as rdf


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
        if done == 1:  # the first batch waits for the workers to start
            start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(detector(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        if done == steps + 1:
            break
    loss.item()  # waits for the device
    return batch * (done - 1) / (time.perf_counter() - start)
