"""Pictures of a run: PNGs named by what they show, so that equal ones are kept once and no file name gets through."""

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
"""Longest side of a picture in pixels; larger images are reduced, for a page holds some two hundred of them."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""


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
    """Lay a map ``[H, W]`` in [0, 1] over an image uint8 ``[3, H, W]``: grey where it is cold, inferno where it is hot.

    The image loses its colours, so that a colour always means heat; a blank map leaves it grey.
    """
    from matplotlib import colormaps

    grey = np.tensordot(_LUMA, pixels / 255, 1)[..., None]
    heat = colormaps["inferno"](cam)[..., :3]
    strength = 0.75 * cam[..., None]
    mixed = (1 - strength) * grey + strength * heat
    return np.ascontiguousarray((mixed * 255).round().astype(np.uint8).transpose(2, 0, 1))


def keys_in(value: Any) -> Iterable[str]:
    """Every picture that a JSON value names."""
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
    """Remove the pictures that no JSON names any more."""
    named = set(keys_in(list(values)))
    for path in folder.glob("*.png"):
        if path.stem not in named:
            path.unlink()
