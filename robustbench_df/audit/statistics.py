"""Trivial statistics of images: what their files and simplest pixel averages say without a look at the content.

Two families. *File statistics* are read from each file's header through the store that the images came from; they say
nothing about the picture. *Pixel statistics* are one number per image from the decoded pixels; they are about the
picture, but about no object in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import ImageSet, Pixels
from robustbench_df.errors import DataError

Rows = NDArray[np.intp]
Columns = dict[str, NDArray[Any]]
"""Statistic -> one value per image: float64, or object where the values are words."""

LEAST_SIDE = 8
"""Smallest image side, in pixels, of which the pixel statistics are taken: one block of a JPEG."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in the luma of ITU-R BT.601, which JPEG uses."""

_LUMINANCE_SUM = 3688
"""Sum of the 64 entries of the luminance quantisation table of ITU-T T.81 (JPEG), table K.1: quality 50."""

_CHUNK = 1 << 21
"""Pixels processed at once: about 100 MB of intermediate arrays."""

_NO_JPEG = -1.0


def chunks(images: ImageSet, rows: Rows) -> Iterator[tuple[slice, Pixels]]:
    """Yield the pixels of ``images.data[rows]`` in parts that fit in memory, each with its place among the rows.

    Raises:
        DataError: the images are smaller than `LEAST_SIDE`.
    """
    height, width = images.size
    if min(height, width) < LEAST_SIDE:
        raise DataError(f"images of {width}×{height} pixels are too small; {LEAST_SIDE} a side are needed")
    step = max(_CHUNK // (height * width), 1)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield slice(start, start + len(part)), images.pixels(part)


# --- from pixels ----------------------------------------------------------------------------------


def pixel_statistics(images: ImageSet, rows: Rows) -> Columns:
    """Return the pixel statistics of ``images.data[rows]``.

    ``brightness``, ``contrast`` (mean and standard deviation of luma, in grey levels), ``saturation`` (mean of HSV's S,
    in [0, 1]), ``warmth`` (mean R − mean B, in grey levels), ``clipped`` (share of values at 0 or 255),
    ``laplacian_energy`` (log of the mean squared 4-neighbour Laplacian), ``high_frequency`` (log of the share of
    spectral power beyond a quarter cycle per pixel), ``border_brightness`` (mean of the outermost ring − mean, in grey
    levels), ``border_step`` (mean step from the outermost ring to the next one over the mean step everywhere) and
    ``blockiness`` (the mean step across multiples of 8 pixels over the mean step elsewhere: a JPEG's grid).
    """
    parts: list[Columns] = [_of_pixels(pixels.astype(np.float32)) for _, pixels in chunks(images, rows)]
    names = parts[0] if parts else ()
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in names}


def _of_pixels(x: NDArray[np.float32]) -> Columns:
    luma = np.tensordot(x, LUMA, axes=(1, 0))
    top, bottom = x.max(axis=1), x.min(axis=1)
    down, right = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=2))
    step = (down.mean(axis=(1, 2)) + right.mean(axis=(1, 2))) / 2 + 1e-3  # no division by 0 in a flat image
    brightness = luma.mean(axis=(1, 2))
    ring = np.concatenate([luma[:, 0], luma[:, -1], luma[:, 1:-1, 0], luma[:, 1:-1, -1]], axis=1)
    inward = np.concatenate([down[:, 0], down[:, -1], right[:, :, 0], right[:, :, -1]], axis=1)
    inner = luma[:, 1:-1, 1:-1]
    laplacian = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:] - 4 * inner
    return {
        "brightness": brightness,
        "contrast": luma.std(axis=(1, 2)),
        "saturation": ((top - bottom) / np.maximum(top, 1)).mean(axis=(1, 2)),
        "warmth": (x[:, 0] - x[:, 2]).mean(axis=(1, 2)),
        "clipped": ((x == 0) | (x == 255)).mean(axis=(1, 2, 3)),
        "laplacian_energy": np.log1p((laplacian**2).mean(axis=(1, 2))),
        "high_frequency": _high_frequency(luma - brightness[:, None, None]),
        "border_brightness": ring.mean(axis=1) - brightness,
        "border_step": inward.mean(axis=1) / step,
        "blockiness": (_grid(down.mean(axis=2)) + _grid(right.mean(axis=1))) / 2,
    }


def _high_frequency(luma: NDArray[np.float32]) -> NDArray[Any]:
    """Log of the share of power at more than 0.25 cycles per pixel, of images without their mean ``[n, H, W]``."""
    from scipy.fft import rfft2

    height, width = luma.shape[1:]
    power = np.abs(rfft2(luma, axes=(1, 2))) ** 2
    columns = np.arange(power.shape[2])
    # rfft2 leaves out the columns that mirror another one; those that have a mirror count twice.
    power *= np.where((columns == 0) | (2 * columns == width), 1, 2)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], columns / width)
    total = power.sum(axis=(1, 2))
    return np.asarray(np.log((power[:, radius > 0.25].sum(axis=1) + 1e-3) / (total + 1.0)))


def _grid(steps: NDArray[Any]) -> NDArray[Any]:
    """Mean step across the borders of 8-pixel blocks over the mean of the other steps; steps are ``[n, side − 1]``."""
    across = np.arange(1, steps.shape[1] + 1) % 8 == 0
    if not across.any():
        return np.ones(len(steps))
    return np.asarray((steps[:, across].mean(axis=1) + 1e-3) / (steps[:, ~across].mean(axis=1) + 1e-3))


# --- from files -----------------------------------------------------------------------------------


def file_statistics(images: ImageSet, rows: Rows) -> Columns:
    """Read the files of ``images.ids[rows]`` again and return what their headers say.

    Numbers: ``file_size`` (bytes), ``width``, ``height`` (pixels as stored), ``jpeg_quality`` (the IJG scale, from the
    luminance table; -1 for other formats) and ``exif`` (0 or 1). Words: ``format``, ``colour_mode``, ``jpeg_tables``
    (a digest of the quantisation tables), ``jpeg_chroma`` (the chroma subsampling) and ``metadata`` (which kinds the
    file carries).

    Raises:
        DataError: the images do not come from files, or the files have changed.
    """
    from robustbench_df.data.decode import quiet_pillow
    from robustbench_df.data.sources import LAYOUTS, open_source, printable
    from robustbench_df.data.stores import Unreadable

    if images.layout not in LAYOUTS:
        raise DataError("the images were made in memory, they have no files")
    store, _ = open_source(Path(images.origin), images.layout, None, strict=False)
    # An id is the printable form of a file's name; a few files have another name on disk.
    stored = {own: name for name in store.names if (own := printable(name)) != name}
    try:
        with quiet_pillow():
            facts = [_of_file(store.read(stored.get(name, name))) for name in images.ids[rows].tolist()]
    except (Unreadable, OSError) as error:
        raise DataError(f"the files in '{images.origin}' changed since they were loaded ({error})") from error
    finally:
        store.close()
    names = facts[0] if facts else ()
    return {
        name: np.array([f[name] for f in facts], dtype=object if isinstance(facts[0][name], str) else np.float64)
        for name in names
    }


def _of_file(raw: bytes) -> dict[str, float | str]:
    from PIL import Image

    from robustbench_df.data.decode import FORMATS

    with Image.open(BytesIO(raw), formats=FORMATS) as image:
        tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
        kinds = sorted(key for key in image.info if isinstance(key, str))
        return {
            "file_size": float(len(raw)),
            "width": float(image.width),
            "height": float(image.height),
            "jpeg_quality": jpeg_quality(tables[min(tables)]) if tables else _NO_JPEG,
            "exif": float("exif" in image.info),
            "format": image.format or "unknown",
            "colour_mode": image.mode,
            "jpeg_tables": f"{zlib.crc32(repr(sorted(tables.items())).encode()):08x}" if tables else "none",
            "jpeg_chroma": _chroma(image),
            "metadata": "+".join(kinds) or "none",
        }


def jpeg_quality(table: list[int]) -> float:
    """Estimate the quality from 1 to 100 that gives a luminance table of 64 entries, on the IJG's scale.

    libjpeg's ``jpeg_quality_scaling`` turns quality Q into a scale of 5000 / Q percent below 50 and 200 − 2 Q percent
    from there on, and multiplies table K.1 by it. The ratio of the sums inverts this, in any order of entries. Entries
    are clipped to 1 and 255, so below 20 and above 97 the estimate is a few points too close to the middle.
    """
    scale = 100.0 * sum(table) / _LUMINANCE_SUM
    return round((200 - scale) / 2 if scale <= 100 else 5000 / scale, 1)


def _chroma(image: Any) -> str:
    """Sampling factors of a JPEG's components, ``2x2 1x1 1x1`` for 4:2:0; ``none`` for other formats."""
    return " ".join(f"{layer[1]}x{layer[2]}" for layer in getattr(image, "layer", ())) or "none"
