"""Photographs of any size, the same on every machine, and a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import skimage.data
import torch
from torch import Tensor


def photos(n: int, height: int, width: int) -> Tensor:
    """Windows of scikit-image's photographs (laid side by side where they are too small), uint8 [n, 3, H, W]."""
    out = []
    for i in range(n):
        source = (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea)[i % 3]()
        x = torch.from_numpy(source).permute(2, 0, 1).repeat(1, 1 + height // len(source), 1 + width // source.shape[1])
        top, left = 37 * i % (x.shape[1] - height + 1), 53 * i % (x.shape[2] - width + 1)
        out.append(x[:, top : top + height, left : left + width])
    return torch.stack(out)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def equal_cores(threads: int) -> None:
    """The same number of threads for us and for OpenCV, which the library computes with."""
    import cv2

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
