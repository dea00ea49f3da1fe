"""JPEG and WebP round trips: encode and decode a batch of pixels, as saving to a file would.

A codec works on 8-bit pixels on the CPU, one image at a time, so an image gets the same result alone or in any batch.
Pillow could do both codecs. torchvision's JPEG operators give the same bytes and pixels in a third of the time on small
images, and decode large ones in half the time. The torchvision functions that wrap these operators are deprecated since
0.29 and warn on every call, so the operators are called directly. If a later torchvision lacks them, Pillow is used
instead.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.image)
from PIL import Image
from torch import Tensor

from robustbench_df.errors import UsageError

QUALITIES = (1, 100)
"""Lowest and highest quality of either codec. 0 is left out: Pillow reads it as "default" for JPEG."""

_TORCHVISION = all(hasattr(torch.ops.image, name) for name in ("encode_jpeg", "decode_jpeg"))

_CHUNK_PIXELS = 1 << 16
"""Pixels per thread task: for fewer, starting a thread costs more than the coding."""


def jpeg(x: Tensor, quality: int | Tensor) -> Tensor:
    """Return ``x`` after baseline JPEG with 4:2:0 chroma, the default of libjpeg (Wallace 1992; ITU-T T.81).

    Args:
        x: float ``[N, 3, H, W]`` in [0, 1], rounded to 8 bits first, as a file would be; or uint8.
        quality: 1 to 100 on the Independent JPEG Group's scale, one number for all images or int ``[N]``.

    Returns:
        Same shape, device and type as ``x``; a float is a multiple of 1/255.

    Raises:
        UsageError: a quality outside 1 to 100.
    """
    return _recode(x, quality, "JPEG")


def webp(x: Tensor, quality: int | Tensor) -> Tensor:
    """Return ``x`` after lossy WebP (RFC 9649) at encoder effort 4, libwebp's default.

    The arguments are those of `jpeg`. Raises `UsageError` for a quality outside 1 to 100.
    """
    return _recode(x, quality, "WEBP")


def _recode(x: Tensor, quality: int | Tensor, codec: str) -> Tensor:
    n, _, height, width = x.shape
    qualities = _qualities(quality, n, codec)
    source, out = x.detach().cpu(), torch.empty(x.shape, dtype=x.dtype)
    one, floating = _jpeg if codec == "JPEG" else _webp, x.is_floating_point()
    size = max(1, _CHUNK_PIXELS // (height * width))

    def code(start: int) -> None:
        part, result = source[start : start + size], out[start : start + size]
        levels = (part * 255).round_().clamp_(0, 255).to(torch.uint8) if floating else part
        coded = torch.empty_like(levels) if floating else result
        for image, q, place in zip(levels, qualities[start : start + size], coded, strict=True):
            place.copy_(one(image, q))
        if floating:
            torch.div(coded, 255, out=result)

    starts = range(0, n, size)
    workers = min(torch.get_num_threads(), len(starts))
    if workers <= 1:
        for start in starts:
            code(start)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix=codec) as pool:
            list(pool.map(code, starts))
    return out.to(x.device)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Encode and decode one image, uint8 ``[3, H, W]``."""
    if not _TORCHVISION:
        return _pillow(image, quality, "JPEG")
    decoded: Tensor = torch.ops.image.decode_jpeg(_jpeg_file(image, quality), _AS_IT_IS, False)
    return decoded


_AS_IT_IS = 0  # torchvision.io.ImageReadMode.UNCHANGED

_LARGE = 1 << 14
"""Number of pixels from which Pillow encodes faster: it interleaves the three planes several times as fast."""


def _jpeg_file(image: Tensor, quality: int) -> Tensor:
    """Return the bytes of the JPEG file, uint8; both encoders write the same bytes."""
    if image.shape[1] * image.shape[2] < _LARGE:
        coded: Tensor = torch.ops.image.encode_jpeg(image, quality)
        return coded
    file = BytesIO()
    _picture(image).save(file, "JPEG", quality=quality)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _webp(image: Tensor, quality: int) -> Tensor:
    return _pillow(image, quality, "WEBP")


def _pillow(image: Tensor, quality: int, codec: str) -> Tensor:
    file = BytesIO()
    _picture(image).save(file, codec, quality=quality)
    with Image.open(file) as back:
        return torch.from_numpy(np.array(back)).permute(2, 0, 1)


def _picture(image: Tensor) -> Image.Image:
    return Image.merge("RGB", [Image.fromarray(plane) for plane in image.numpy()])


def _qualities(quality: int | Tensor, n: int, codec: str) -> list[int]:
    qualities = [int(q) for q in quality.tolist()] if isinstance(quality, Tensor) else [quality] * n
    low, high = QUALITIES
    wrong = [q for q in qualities if not low <= q <= high]
    if wrong:
        raise UsageError(f"{codec} quality must be {low} to {high}, not {wrong[0]}")
    return qualities
