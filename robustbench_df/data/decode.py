"""Decode the bytes of one file to uint8 RGB, or say why that is not possible.

How each kind of image is converted:

- grey, palette, 1-bit and CMYK images become RGB; colour profiles are ignored;
- transparent pixels are laid on white, as a browser's page would show them;
- 16-bit grey is divided by 257, so that 65535 becomes 255 (of 16-bit colour Pillow keeps the high byte, at
  most one level away);
- the EXIF orientation is applied, so the image is the way a viewer shows it;
- only the first frame of an animation is used.

Other formats and truncated or malformed files are refused, never padded or guessed.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from robustbench_df.data.imageset import Pixels
from robustbench_df.data.stores import Unreadable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
ENDINGS_NOT_READ = (".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2")
"""File endings of image formats that are not read. Their pixels would depend on Pillow's version and build (AVIF, HEIC,
the orientation of TIFF) or on a choice that belongs to the user (frames, values beyond 8 bits)."""
_NOT_READ = (
    ("GIF", re.compile(rb"GIF8")),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
    ("HEIC", re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  ")),
)
"""How files in these formats begin."""
MAX_PIXELS = 100_000_000
"""Most pixels of an image that is decoded; larger ones may be decompression bombs. Checked on the header."""

# What Pillow's parsers raise on damaged files; each means "this file is not a valid image".
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)

# EXIF 2.3, tag 0x0112: how the stored rows and columns must be turned to be seen upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap the stored width and height."""


def decode(raw: bytes, size: int | None = None) -> tuple[Pixels, str, str]:
    """Decode one image.

    Args:
        raw: the whole file.
        size: side S in pixels: the shorter side is scaled to S, the centre S×S kept. None keeps every pixel.

    Returns:
        RGB as uint8 ``[3, H, W]``, the name of the file's format (``"JPEG"`` …), and the size as displayed, before
        scaling, as "width×height".

    Raises:
        Unreadable: the file cannot be decoded; the message is the reason, the kind is ``unreadable`` or ``too-large``.
    """
    if not raw:
        raise Unreadable("unreadable", "the file is empty")
    try:
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(
                    "too-large",
                    f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 1_000_000} million",
                )
            image.load()
            rgb = _rgb(_upright(image))
            pixels = np.ascontiguousarray(np.asarray(_square(rgb, size)).transpose(2, 0, 1))
            return pixels, image.format or "unknown", f"{rgb.width}×{rgb.height}"
    except Image.DecompressionBombError as error:
        raise Unreadable("too-large", f"more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except UnidentifiedImageError as error:
        known = next((name for name, begins in _NOT_READ if begins.match(raw)), None)
        reason = f"{known} is not read; convert it to PNG" if known else f"not a {', '.join(FORMATS)} image"
        raise Unreadable("unreadable", reason) from error
    except _PILLOW_ERRORS as error:
        raise Unreadable("unreadable", " ".join(str(error).split()) or type(error).__name__) from error


def dimensions(raw: bytes) -> str | None:
    """Return an image's size as displayed, read from its header, as "width×height"; None if that cannot be read."""
    try:
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            # Pillow would decode a whole PNG to look for EXIF after the pixels, where hardly any program writes it.
            told = image.format != "PNG" or "exif" in image.info
            turned = told and _orientation(image) in _SIDEWAYS
            width, height = reversed(image.size) if turned else image.size
            return f"{width}×{height}"
    except (Image.DecompressionBombError, UnidentifiedImageError, *_PILLOW_ERRORS):
        return None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings (odd EXIF, near-bombs) off the terminal: problems that matter become findings.

    The warning filters belong to the whole process, so enter this once around a pool of threads, not in each.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return int(found) if found in _UPRIGHT else 1
    except _PILLOW_ERRORS:
        return 1  # malformed EXIF says nothing about the pixels, which are sound


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, size: int | None) -> Image.Image:
    """Scale the central square to S×S in one antialiased step.

    The result is that of scaling the shorter side to S and cropping the centre, but without the intermediate image,
    which would not fit in memory for a 1×10,000,000 picture.
    """
    if size is None or image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
