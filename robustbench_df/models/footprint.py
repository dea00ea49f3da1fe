"""How many images a CPU looks at together.

Where memory runs out an accelerator refuses, and half as many images are tried; for a CPU the system hands out more
than there is and kills the process later. So what fits is decided before: by the pixels that networks look at.
"""

from __future__ import annotations

import torch
from torch import nn

from robustbench_df.models.detector import Detector

CPU_PIXELS = 1 << 20
"""Pixels looked at together, times the networks that a gradient goes through: some 3 GB at most, for those of the
presets keep 1.5 to 3 KB a pixel for it in fp32."""

LEAST_MICRO_BATCH = 16
"""Batch normalisation learns its statistics from a micro-batch: of fewer images they are noise."""


def fitting_batch(
    most: int, detector: nn.Module, size: tuple[int, ...], device: torch.device, *, gradient: bool
) -> int:
    """Return how many of ``most`` images of ``size`` (height, width) to look at together.

    ``gradient``: all networks in ``detector`` keep what they have computed, as an attack needs; else one at a time.
    """
    if device.type != "cpu":
        return most
    seen = _pixels(detector, size)
    return max(1, min(most, CPU_PIXELS // (sum(seen) if gradient else max(seen))))


def fitting_micro_batch(
    most: int, detector: nn.Module, size: tuple[int, ...], device: torch.device, *, twins: bool = False
) -> int:
    """Return ``most`` images of ``size``, halved until they fit, as training looks at together.

    ``twins``: each comes with an attacked twin.
    """
    each, least = sum(_pixels(detector, size)) * (1 + twins), LEAST_MICRO_BATCH // (1 + twins)
    while device.type == "cpu" and most > least and most * each > CPU_PIXELS:
        most = max(-(-most // 2), least)
    return most


def _pixels(detector: nn.Module, size: tuple[int, ...]) -> list[int]:
    """Pixels of one image that each network in ``detector`` looks at."""
    found = [module for module in detector.modules() if isinstance(module, Detector)]
    networks = [one for one in found if not any(inner is not one and inner in found for inner in one.modules())]
    return [one.input_size**2 if one.input_size else size[0] * size[1] for one in networks] or [size[0] * size[1]]
