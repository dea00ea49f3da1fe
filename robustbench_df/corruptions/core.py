"""What a corruption is: a batched function of pixels, a setting per severity, and noise keyed by the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.errors import UsageError
from robustbench_df.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
"""Severity 0 is the image itself."""


@dataclass(frozen=True, eq=False)
class Draw:
    """The noise of one corruption of a batch: a pure function of (key, image id), the same in any batch and order.

    ``ids`` is int64 ``[N]``, a stable number per image; ``key`` holds seed, corruption and severity.
    """

    ids: Tensor
    key: tuple[rng.Key, ...]

    def uniform(self, shape: tuple[int, ...], purpose: str = "") -> Tensor:
        """Uniform numbers in [0, 1), float32 ``[N, *shape]``, a separate stream for each ``purpose``."""
        return rng.dense_uniform(self.ids, shape, *self.key, purpose)

    def normal(self, shape: tuple[int, ...], purpose: str = "") -> Tensor:
        """Draw standard normal numbers, float32 ``[N, *shape]``."""
        return rng.normal(self.ids, shape, *self.key, purpose)


Setting = tuple[float, ...]
Apply = Callable[[Tensor, Setting, Draw], Tensor]
"""``(x float32 [N, 3, H, W] in [0, 1], setting, draw) -> [N, 3, H, W]``; the caller clips to [0, 1]."""


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    ``settings`` maps a constant set (``cifar``, ``imagenet``) to five settings, severity 1 to 5; ``random`` says that
    it draws noise; ``group`` is noise, blur, weather, digital, extra or web. ``codec`` says that ``apply`` works on
    8-bit pixels and also accepts uint8, which saves the conversion to float and back.
    """

    summary: str
    apply: Apply
    settings: Mapping[str, tuple[Setting, ...]]
    group: str
    random: bool = False
    codec: bool = False


CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def checked_severity(severity: int) -> int:
    """Return the severity as a plain int, because it is part of the noise key.

    Raises:
        UsageError: it is not 0 to 5.
    """
    if severity not in (0, *SEVERITIES):
        raise UsageError(f"severity must be 0 to 5, not {severity}")
    return int(severity)


def image_keys(x: Tensor, ids: Tensor | None) -> Tensor:
    """Return the key of each image's noise, int64 ``[N]`` on the device of ``x``: ``ids``, or the batch position.

    Raises:
        UsageError: ``ids`` are not one whole number per image.
    """
    if ids is None:
        return torch.arange(len(x), device=x.device)
    if tuple(ids.shape) != (len(x),) or ids.is_floating_point():
        raise UsageError(f"ids must be int64 [{len(x)}], one per image, not {ids.dtype} {tuple(ids.shape)}")
    return ids.to(x.device, torch.int64)
