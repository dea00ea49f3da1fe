"""Photographs of any size, the same on every machine, and a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import skimage.data
import torch
from torch import Tensor


def photos(n: int, height: int, width: int) -> Tensor:
    """Windows of scikit-image's photographs (laid side by side where they are too small), uint8 [n, 3, H, W]."""
    sources, out = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()), []
    wide = [
        torch.from_numpy(s).permute(2, 0, 1).repeat(1, 1 + height // len(s), 1 + width // s.shape[1]) for s in sources
    ]
    for i in range(n):
        x = wide[i % 3]
        top, left = 37 * i % (x.shape[1] - height + 1), 53 * i % (x.shape[2] - width + 1)
        out.append(x[:, top : top + height, left : left + width])
    return torch.stack(out)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def equal_cores(threads: int) -> None:
    """The same number of threads for us and for OpenCV, which the library computes with."""
    import cv2

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
