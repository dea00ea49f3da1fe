"""`corrupt`: one corruption at one severity on any batch."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.core import Corruption, Draw, Setting, checked_severity, image_keys
from robustbench_df.errors import UsageError, nearest

SMALL_SIDE = 64
"""Largest shorter side, in pixels, for which ``auto`` takes CIFAR-10-C's constants; above it, ImageNet-C's."""

CACHED_PIXELS = 1 << 18
"""Pixels corrupted together on a CPU: a few megabytes of float32 channels."""

CONSTANTS = ("auto", "cifar", "imagenet")


def corrupt(
    x: Tensor,
    name: str,
    severity: int,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    constants: str = "auto",
) -> Tensor:
    """Return ``x`` corrupted, in the type it came in.

    Args:
        x: uint8 ``[N, 3, H, W]``, or float in [0, 1]. uint8 results are rounded, float results are not.
        name: one of `CORRUPTIONS`.
        severity: 0 (the image itself) to 5.
        ids: int64 ``[N]``, a stable number per image that keys its noise; None uses the position in the batch.
        seed: key of all randomness.
        constants: ``cifar``, ``imagenet``, or ``auto``, which chooses by the shorter side.

    Raises:
        UsageError: unknown corruption, severity or constant set; images of another shape or type; ``ids`` that are not
            one integer per image.
    """
    corruption, level = CORRUPTIONS[name], checked_severity(severity)
    chosen, keys = constant_set(constants, x), image_keys(x, ids)
    if level == 0 or not x.numel():
        return x.clone()
    setting, key = corruption.settings[chosen][level - 1], (int(seed), name, level)
    # On a CPU, parts whose intermediate results fit in the cache are several times as fast as a whole batch.
    size = max(CACHED_PIXELS // (x.shape[2] * x.shape[3]), 1) if x.device.type == "cpu" else max(len(x), 1)
    parts = [
        _apply(corruption, some, setting, Draw(own, key))
        for some, own in zip(x.split(size), keys.split(size), strict=True)
    ]
    return torch.cat(parts)


def _apply(corruption: Corruption, x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    if corruption.codec and x.dtype == torch.uint8:
        return corruption.apply(x, setting, draw)
    pixels = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    out = corruption.apply(pixels, setting, draw).clamp(0, 1)
    return (out * 255).round().to(torch.uint8) if x.dtype == torch.uint8 else out.to(x.dtype)


def constant_set(constants: str, x: Tensor) -> str:
    """Resolve ``auto`` by the shorter side; refuse unknown sets and images of another shape or type (`UsageError`)."""
    if constants not in CONSTANTS:
        raise UsageError(
            f"unknown constants '{constants}'{nearest(constants, CONSTANTS)}; choose from {', '.join(CONSTANTS)}"
        )
    if x.ndim != 4 or x.shape[1] != 3 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise UsageError(f"a corruption takes uint8 or float [N, 3, H, W], not {x.dtype} {tuple(x.shape)}")
    if constants != "auto":
        return constants
    return "cifar" if min(x.shape[2:]) <= SMALL_SIDE else "imagenet"
