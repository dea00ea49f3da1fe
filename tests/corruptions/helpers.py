"""Photographs to corrupt, noise that a test chooses, and the measure of how much was lost."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from robustbench_df.corruptions.core import Draw

_FILES = ("astronaut.png", "chelsea.png", "coffee.png")


@functools.cache
def photos(n: int, height: int, width: int) -> Tensor:
    """Parts of scikit-image's photographs, uint8 ``[n, 3, height, width]``, no two alike."""
    folder = Path(skimage.__file__).parent / "data"
    out = []
    for i in range(n):
        with Image.open(folder / _FILES[i % len(_FILES)]) as image:
            turn = i // len(_FILES)
            side = 100 + 7 * turn % 130
            left, top = 37 * turn % (image.width - side), 53 * turn % (image.height - side)
            part = image.convert("RGB").crop((left, top, left + side, top + side))
            out.append(np.asarray(part.resize((width, height), Image.Resampling.BOX if side > width else None)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()


def floats(n: int, height: int, width: int) -> Tensor:
    """`photos` as float32 in [0, 1]."""
    return photos(n, height, width).float() / 255


def draw_for(x: Tensor, *key: str | int) -> Draw:
    """Noise keyed by the position."""
    return Draw(torch.arange(len(x)), key)


@dataclass(frozen=True, eq=False)
class Given(Draw):
    """Hands out the numbers it was given, by purpose."""

    fields: dict[str, Tensor] = field(default_factory=dict)

    def uniform(self, shape: tuple[int, ...], purpose: str = "") -> Tensor:
        return self._field(shape, purpose)

    def normal(self, shape: tuple[int, ...], purpose: str = "") -> Tensor:
        return self._field(shape, purpose)

    def _field(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        assert self.fields[purpose].shape == (len(self.ids), *shape)
        return self.fields[purpose].clone()


def given(n: int, **fields: Tensor) -> Given:
    """Noise for ``n`` images; underscores in a purpose stand for spaces, ``noise`` for the unnamed purpose."""
    named = {"" if name == "noise" else name.replace("_", " "): value for name, value in fields.items()}
    return Given(torch.arange(n), (), named)


def psnr(x: Tensor, y: Tensor) -> float:
    """Mean over the images of the peak signal-to-noise ratio of values in [0, 1], dB; equal images count as 100."""
    error = ((x.double() - y.double()) ** 2).flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
