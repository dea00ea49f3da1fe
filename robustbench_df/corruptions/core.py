"""What a corruption is: a batched function of pixels, a setting per severity, and noise keyed by the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from robustbench_df import rng
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
        """Uniform numbers in [0, 1), float32 ``[N, *shape]``, another stream for every ``purpose``."""
        return rng.uniform(self.ids, shape, *self.key, purpose)

    def normal(self, shape: tuple[int, ...], purpose: str = "") -> Tensor:
        """Draw standard normal numbers, float32 ``[N, *shape]``."""
        return rng.normal(self.ids, shape, *self.key, purpose)


Setting = tuple[float, ...]
Apply = Callable[[Tensor, Setting, Draw], Tensor]
"""``(x float32 [N, 3, H, W] in [0, 1], setting, draw) -> [N, 3, H, W]``; the caller clips to [0, 1]."""


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    ``settings`` maps a constant set (``cifar``, ``imagenet``) to five settings, severity 1 to 5; ``random`` says it
    draws noise; ``group`` is noise, blur, weather, digital, extra or web.
    """

    summary: str
    apply: Apply
    settings: Mapping[str, tuple[Setting, ...]]
    group: str
    random: bool = False


CORRUPTIONS: Registry[Corruption] = Registry("corruption")
