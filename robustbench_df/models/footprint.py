"""How many images a CPU processes together.

When an accelerator runs out of memory, the allocation fails, and half as many images are tried. On a CPU the system
overcommits memory and kills the process later. So the batch size is chosen in advance, from the number of pixels that
the networks process.
"""

from __future__ import annotations

import torch
from torch import nn

from robustbench_df.models.detector import Detector

CPU_PIXELS = 1 << 20
"""Most pixels processed together, summed over the networks that a gradient passes through. This is at most some 3 GB:
the presets' networks store 1.5 to 3 KB per pixel for the gradient in fp32."""

LEAST_MICRO_BATCH = 16
"""Least micro-batch: batch normalisation takes its statistics from it, and those of fewer images are too noisy."""


def fitting_batch(
    most: int, detector: nn.Module, size: tuple[int, ...], device: torch.device, *, gradient: bool
) -> int:
    """Return how many images of ``size`` (height, width) to process together, ``most`` at most.

    ``gradient``: all networks in ``detector`` keep their activations at the same time, as an attack needs; otherwise
    only one network does at a time.
    """
    if device.type != "cpu":
        return most
    seen = _pixels(detector, size)
    return max(1, min(most, CPU_PIXELS // (sum(seen) if gradient else max(seen))))


def fitting_micro_batch(
    most: int, detector: nn.Module, size: tuple[int, ...], device: torch.device, *, twins: bool = False
) -> int:
    """Return the number of images of ``size`` that training processes together: ``most``, halved until it fits.

    ``twins``: each image comes with an attacked twin.
    """
    each, least = sum(_pixels(detector, size)) * (1 + twins), LEAST_MICRO_BATCH // (1 + twins)
    while device.type == "cpu" and most > least and most * each > CPU_PIXELS:
        most = max(-(-most // 2), least)
    return most


def _pixels(detector: nn.Module, size: tuple[int, ...]) -> list[int]:
    """Return the number of pixels per image that each network in ``detector`` processes."""
    found = [module for module in detector.modules() if isinstance(module, Detector)]
    networks = [one for one in found if not any(inner is not one and inner in found for inner in one.modules())]
    return [one.input_size**2 if one.input_size else size[0] * size[1] for one in networks] or [size[0] * size[1]]
