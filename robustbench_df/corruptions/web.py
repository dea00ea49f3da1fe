"""What pictures on the web have been through before a detector meets them.

We chose the severities: from what a careful publisher does (1) to the worst that is still common (5). One set of
constants serves images of 32 and of 1000 pixels, because every step is relative to the image's size or a property of a
codec.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from robustbench_df.corruptions import pixels
from robustbench_df.corruptions.codecs import jpeg, webp
from robustbench_df.corruptions.core import Corruption, Draw, Setting


def jpeg_quality(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Save as JPEG. Setting: quality."""
    return jpeg(x, int(setting[0]))


def double_jpeg(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Save as JPEG twice on one block grid, the second time worse. Setting: first and second quality."""
    return jpeg(jpeg(x, int(setting[0])), int(setting[1]))


def webp_quality(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Save as lossy WebP. Setting: quality."""
    return webp(x, int(setting[0]))


def resize_nearest(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Shrink and enlarge again by repeating pixels. Setting: scale."""
    return pixels.there_and_back(x, setting[0], "nearest")


def resize_bilinear(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Shrink and enlarge again, bilinear. Setting: scale."""
    return pixels.there_and_back(x, setting[0], "bilinear")


def resize_bicubic(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Shrink and enlarge again, bicubic. Setting: scale."""
    return pixels.there_and_back(x, setting[0], "bicubic")


def crop_resize(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Crop a part at a place keyed by the image and enlarge it to the old size. Setting: share of each side."""
    part = pixels.crop(x, setting[0], draw.uniform((2,), "crop"))
    return pixels.resize(part, (x.shape[2], x.shape[3]))


def screenshot(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Imitate a screenshot: rescale, sharpen as a display does, save as JPEG at that scale, resize to the old size.

    Setting: scale, sharpening (`pixels.sharpen`), JPEG quality.
    """
    scale, amount, quality = setting
    shown = pixels.sharpen(pixels.resize(x, pixels.scaled(x, scale)), amount)
    return pixels.resize(jpeg(shown, int(quality)), (x.shape[2], x.shape[3]))


_SCALE_STEPS = 5
"""Number of scales that one severity of `social_media` chooses from; few, so that images of one scale share a batch."""


def social_media(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Imitate an upload to a platform: shrink, save as JPEG at that size, and resize to the old size.

    Setting: lowest and highest scale, lowest and highest JPEG quality, both ends included. Each image draws its own
    scale and quality. Over all severities they range from .5 to .9 and from 70 to 85.
    """
    scale_low, scale_high, quality_low, quality_high = setting
    u = draw.uniform((2,), "social")
    step = (u[:, 0] * _SCALE_STEPS).long()
    quality = (quality_low + u[:, 1] * (quality_high - quality_low + 1)).long()
    out = torch.empty_like(x)
    for k in range(_SCALE_STEPS):
        rows = (step == k).nonzero().squeeze(1)
        if len(rows):
            size = pixels.scaled(x, scale_low + k * (scale_high - scale_low) / (_SCALE_STEPS - 1))
            posted = jpeg(pixels.resize(x[rows], size), quality[rows])
            out[rows] = pixels.resize(posted, (x.shape[2], x.shape[3]))
    return out


def grey(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Take colour away. Setting: share of grey; 1 is a grey picture."""
    return pixels.grey(x, setting[0])


def gamma(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Darken the mid-tones, as a display with another gamma does: ``x ** setting``."""
    return pixels.gamma(x, setting[0])


def posterise(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Keep few values per channel. Setting: how many; 2 leaves 8 colours."""
    return pixels.posterise(x, int(setting[0]))


def text_overlay(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Lay a short text or a smiley over the picture; its choice and its place are keyed by the image.

    Setting: height as a share of the shorter side, opacity.
    """
    height = max(_LEAST_TEXT, round(setting[0] * min(x.shape[2:])))
    bank, sizes = (part.to(x.device) for part in _stickers(height))
    u = draw.uniform((3,), "overlay")
    which = (u[:, 0] * len(bank)).long()
    free = (torch.tensor(x.shape[2:], device=x.device) - sizes[which]).clamp_min(0) + 1
    corner = (u[:, 1:] * free).long()
    # Sticker pixel under each image pixel; beyond the sticker the index stays on its transparent rim.
    rows, cols = (
        (torch.arange(x.shape[2 + axis], device=x.device) - corner[:, axis, None]).clamp(-1, bank.shape[2 + axis] - 2)
        + 1
        for axis in (0, 1)
    )
    sticker = pixels.gather(bank, which, rows, cols).to(x.dtype)
    return torch.lerp(x, sticker[:, :3], setting[1] * sticker[:, 3:])


_TEXTS = ("@user", "LOL", "2026", "wow!")
_LEAST_TEXT = 5
"""Smallest height of a text, in pixels; below it, the built-in font is illegible."""


@lru_cache(maxsize=16)
def _stickers(height: int) -> tuple[Tensor, Tensor]:
    """Return RGBA pictures ``[T, 4, h, w]`` in [0, 1] with a transparent rim of one pixel, and sizes ``[T, 2]``."""
    pictures = (*(_text(text, height) for text in _TEXTS), _smiley(height))
    drawn = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures]
    sizes = torch.tensor([picture.shape[1:] for picture in drawn])
    bank = torch.zeros(len(drawn), 4, int(sizes[:, 0].max()) + 2, int(sizes[:, 1].max()) + 2)
    for place, picture in zip(bank, drawn, strict=True):
        place[:, 1 : 1 + picture.shape[1], 1 : 1 + picture.shape[2]] = picture
    return bank, sizes


def _text(text: str, height: int) -> Image.Image:
    """Draw white text with a black outline, readable on any background, in Pillow's built-in font."""
    font, edge = ImageFont.load_default(size=height), max(1, height // 12)
    left, top, right, bottom = font.getbbox(text, stroke_width=edge)
    picture = Image.new("RGBA", (round(right - left), round(bottom - top)))
    ImageDraw.Draw(picture).text((-left, -top), text, "white", font, stroke_width=edge, stroke_fill="black")
    return picture


def _smiley(height: int) -> Image.Image:
    """Draw a yellow face, four times too large and shrunk, so that its edges are smooth."""
    side = 4 * height
    picture = Image.new("RGBA", (side, side))
    pen, unit = ImageDraw.Draw(picture), side / 20
    pen.ellipse((0, 0, side - 1, side - 1), (255, 204, 50, 255))
    for x in (5, 12):
        pen.ellipse((x * unit, 5 * unit, (x + 3) * unit, 9 * unit), "black")
    pen.arc((4 * unit, 6 * unit, 16 * unit, 16 * unit), 20, 160, "black", max(1, round(1.5 * unit)))
    return picture.resize((height, height), Image.Resampling.BOX)


def _same(*settings: Setting) -> dict[str, tuple[Setting, ...]]:
    return {"cifar": settings, "imagenet": settings}


_SCALES = _same((0.9,), (0.75,), (0.6,), (0.5,), (0.35,))

# We chose the ladders of severities; these are their reference points:
# - JPEG: 95 is the highest quality that Pillow's documentation advises, 85 is what Google's PageSpeed asked of web
#   pages, 75 is the default of libjpeg; the two qualities of double_jpeg fall in a similar ladder;
# - WebP: 75 is the default of libwebp's cwebp;
# - social_media: .5 to .9 of the size and quality 70 to 85, divided evenly over the severities;
# - grey: 1 is ITU-R BT.601's luma alone; posterise: 2 values per channel are 8 colours;
# - gamma: 2 to 2.5 lie around the 2.2 of sRGB, which is a picture that lacks one gamma encoding.
WEB: dict[str, Corruption] = {
    "jpeg_quality": Corruption("JPEG", jpeg_quality, _same((95,), (85,), (70,), (50,), (30,)), "web", codec=True),
    "webp": Corruption("lossy WebP", webp_quality, _same((90,), (75,), (60,), (40,), (20,)), "web", codec=True),
    "resize_nearest": Corruption("down and up again, nearest", resize_nearest, _SCALES, "web"),
    "resize_bilinear": Corruption("down and up again, bilinear", resize_bilinear, _SCALES, "web"),
    "resize_bicubic": Corruption("down and up again, bicubic", resize_bicubic, _SCALES, "web"),
    "crop_resize": Corruption(
        "a part, enlarged", crop_resize, _same((0.95,), (0.9,), (0.8,), (0.7,), (0.6,)), "web", random=True
    ),
    "double_jpeg": Corruption(
        "JPEG of a JPEG", double_jpeg, _same((95, 90), (90, 80), (85, 65), (75, 45), (60, 25)), "web", codec=True
    ),
    "screenshot": Corruption(
        "other scale, sharpened, JPEG",
        screenshot,
        _same((0.9, 0.3, 95), (0.8, 0.5, 90), (0.7, 0.7, 85), (0.6, 0.9, 80), (0.5, 1.2, 70)),
        "web",
    ),
    "social_media": Corruption(
        "shrunk and JPEG, as platforms do",
        social_media,
        _same(
            (0.82, 0.9, 82, 85), (0.74, 0.82, 79, 82), (0.66, 0.74, 76, 79), (0.58, 0.66, 73, 76), (0.5, 0.58, 70, 73)
        ),
        "web",
        random=True,
    ),
    "grey": Corruption("less colour", grey, _same((0.2,), (0.4,), (0.6,), (0.8,), (1,)), "web"),
    "text_overlay": Corruption(
        "a caption or a smiley on top",
        text_overlay,
        _same((0.12, 0.6), (0.16, 0.7), (0.2, 0.8), (0.25, 0.9), (0.3, 1)),
        "web",
        random=True,
    ),
    "gamma": Corruption("darker mid-tones", gamma, _same((1.15,), (1.35,), (1.6,), (2,), (2.5,)), "web"),
    "posterise": Corruption("few values per channel", posterise, _same((32,), (16,), (8,), (4,), (2,)), "web"),
}
