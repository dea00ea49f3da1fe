"""JPEG and WebP, there and back: a batch of pixels through the codec that a file would have gone through.

Pillow does both (libjpeg-turbo and libwebp); torchvision's JPEG functions are deprecated since 0.29 and warn on every
call. A codec works on 8-bit pixels on the CPU, one image at a time: an image comes out the same alone or in any batch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_df.data.imageset import Pixels
from robustbench_df.errors import UsageError

QUALITIES = (1, 100)
"""Lowest and highest quality of either codec. 0 is left out: Pillow reads it as "default" for JPEG."""

_CHUNK_PIXELS = 1 << 16
"""Pixels of one thread's share: below it starting a thread costs more than the coding."""


def jpeg(x: Tensor, quality: int | Tensor) -> Tensor:
    """Return ``x`` after baseline JPEG with 4:2:0 chroma, the default of libjpeg (Wallace 1992; ITU-T T.81).

    Args:
        x: float ``[N, 3, H, W]`` in [0, 1]; rounded to 8 bits first, as a file would be.
        quality: 1 to 100, one for all or int ``[N]`` (the Independent JPEG Group's scale of the tables).

    Returns:
        Same shape, device and type as ``x``, multiples of 1/255.

    Raises:
        UsageError: a quality outside 1 to 100.
    """
    return _recode(x, quality, "JPEG")


def webp(x: Tensor, quality: int | Tensor) -> Tensor:
    """Return ``x`` after lossy WebP (RFC 9649), encoder effort 4, libwebp's default. Arguments and errors as `jpeg`."""
    return _recode(x, quality, "WEBP")


def _recode(x: Tensor, quality: int | Tensor, codec: str) -> Tensor:
    n, _, height, width = x.shape
    qualities = _qualities(quality, n, codec)
    pixels = (x.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty_like(pixels)

    def code(rows: range) -> None:
        for row in rows:
            out[row] = _one(pixels[row], qualities[row], codec)

    size = max(1, _CHUNK_PIXELS // (height * width))
    chunks = [range(start, min(start + size, n)) for start in range(0, n, size)]
    workers = min(torch.get_num_threads(), len(chunks))
    if workers <= 1:
        code(range(n))
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix=codec) as pool:
            list(pool.map(code, chunks))
    return (torch.from_numpy(out).permute(0, 3, 1, 2).to(x.device).to(x.dtype) / 255).contiguous()


def _one(pixels: Pixels, quality: int, codec: str) -> Pixels:
    file = BytesIO()
    Image.fromarray(pixels).save(file, codec, quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


def _qualities(quality: int | Tensor, n: int, codec: str) -> list[int]:
    qualities = [int(q) for q in quality.tolist()] if isinstance(quality, Tensor) else [quality] * n
    low, high = QUALITIES
    wrong = [q for q in qualities if not low <= q <= high]
    if wrong:
        raise UsageError(f"{codec} quality must be {low} to {high}, not {wrong[0]}")
    return qualities
