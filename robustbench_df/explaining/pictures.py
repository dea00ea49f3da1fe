"""Pictures of a run: PNGs named by a digest of their pixels.

Equal pictures are thus stored once, and no file name of an image becomes part of a path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_df.rundir import write_atomic

Pixels = NDArray[np.uint8]

LARGEST = 128
"""Longest side of a picture in pixels; larger images are downscaled, because a page holds about 200 of them."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""


def keep_picture(folder: Path, pixels: Pixels) -> str:
    """Write uint8 ``[3, H, W]`` as ``<key>.png`` and return the key: 16 hexadecimal digits of the pixels' digest."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(pixels).data)
    key = digest.hexdigest()
    path = folder / f"{key}.png"
    if not path.exists():
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        if max(picture.size) > LARGEST:
            picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        write_atomic(path, lambda temporary: picture.save(temporary, "PNG", optimize=True))
    return key


def overlay(pixels: Pixels, cam: NDArray[np.float32]) -> Pixels:
    """Overlay a map ``[H, W]`` in [0, 1] on an image uint8 ``[3, H, W]``: grey where cold, inferno where hot.

    The image itself is shown in grey, so that colour always means heat.
    """
    from matplotlib import colormaps

    grey = np.tensordot(_LUMA, pixels / 255, 1)[..., None]
    heat = colormaps["inferno"](cam)[..., :3]
    strength = 0.75 * cam[..., None]
    mixed = (1 - strength) * grey + strength * heat
    return np.ascontiguousarray((mixed * 255).round().astype(np.uint8).transpose(2, 0, 1))


def keys_in(value: Any) -> Iterable[str]:
    """Yield the key of every picture that a JSON value refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "picture":
                yield inner
            else:
                yield from keys_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_in(inner)


def drop_unnamed(folder: Path, *values: Any) -> None:
    """Remove the pictures that none of the JSON values refers to."""
    named = set(keys_in(list(values)))
    for path in folder.glob("*.png"):
        if path.stem not in named:
            path.unlink()
