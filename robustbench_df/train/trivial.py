"""TrivialAugmentWide (Müller & Hutter 2021, arXiv:2103.10158, table 7) in batches on tensors.

Each image draws one operation and one strength; images that drew the same operation are processed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(images [n, 3, H, W], strength [n] in [0, 1), sign [n] ±1) -> images``."""


def _affine(x: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    theta = torch.stack([torch.stack(row, dim=1) for row in matrix], dim=1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _shear_x(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _affine(x, [[one, 0.99 * m * s, zero], [zero, one, zero]])


def _shear_y(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _affine(x, [[one, zero, zero], [0.99 * m * s, one, zero]])


def _translate_x(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    # The paper's range is 32 pixels at 224; here as a share of the side, in grid units of half a side.
    return _affine(x, [[one, zero, 2 * 32 / 224 * m * s], [zero, one, zero]])


def _translate_y(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _affine(x, [[one, zero, zero], [zero, one, 2 * 32 / 224 * m * s]])


def _rotate(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    angle = math.radians(135) * m * s
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(m)
    return _affine(x, [[cos, -sin, zero], [sin, cos, zero]])


def _blend(x: Tensor, other: Tensor, m: Tensor, s: Tensor) -> Tensor:
    factor = (1 + 0.99 * m * s)[:, None, None, None]
    return (other + (x - other) * factor).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def _brightness(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return _blend(x, torch.zeros_like(x), m, s)


def _colour(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return _blend(x, _grey(x).expand_as(x), m, s)


def _contrast(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return _blend(x, _grey(x).mean((2, 3), keepdim=True).expand_as(x), m, s)


def _sharpness(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    kernel = x.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(3, 1, 3, 3)
    smooth = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return _blend(x, smooth, m, s)


def _posterize(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    step = torch.exp2(torch.round(6 * m))[:, None, None, None]  # 8 bits down to 2
    return torch.floor(torch.round(x * 255) / step) * step / 255


def _solarize(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return torch.where(x >= (1 - m)[:, None, None, None], 1 - x, x)


def _autocontrast(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def _equalize(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import equalize

    return torch.stack([equalize((image * 255).round().to(torch.uint8)) for image in x]).to(x.dtype) / 255


def _identity(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return x


OPERATIONS: tuple[Operation, ...] = (
    _identity,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _brightness,
    _colour,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)


def trivial_augment(x: Tensor, choice: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Apply one random operation to each image ``[N, 3, H, W]`` in [0, 1].

    ``choice``, ``strength`` and ``sign`` are uniform ``[N]`` in [0, 1).
    """
    which = (choice * len(OPERATIONS)).long()
    direction = torch.where(sign < 0.5, -1.0, 1.0)
    out = x.clone()
    for k, operation in enumerate(OPERATIONS):
        hit = torch.nonzero(which == k)[:, 0]
        if len(hit):
            out[hit] = operation(x[hit], strength[hit], direction[hit])
    return out
