"""Natural 32-px pictures that share no pixel, and the copies that augmentations make of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from robustbench_df.audit.hashing import contrast as contrast_of
from robustbench_df.audit.hashing import thumbnails
from robustbench_df.data.demo import PHOTOGRAPHS, _find, _read
from robustbench_df.data.imageset import Pixels

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


NOT_NATURAL = {"hubble", "ihc"}
"""A field of stars and a microscope's slide: few dots on black, and a pattern on white that any brightening clips."""

CONTRAST = 12.0
"""Standard deviation, in grey levels, that 99.9% of CIFAKE's images exceed."""


@lru_cache(maxsize=2)
def photos(size: int = 32) -> Pixels:
    """Uint8 ``[N, 3, size, size]``: the demo's photographs, cut into squares and shrunk to a half and to a fifth.

    Larger pictures are not shrunk; there are fewer of them.
    """
    pictures = []
    for name in sorted(PHOTOGRAPHS.keys() - NOT_NATURAL):
        path = _find(name)
        assert path is not None
        photo = Image.fromarray(_read(path))
        for side in (2 * size, 5 * size) if size == 32 else (size,):
            for top in range(0, photo.height - side + 1, side):
                for left in range(0, photo.width - side + 1, side):
                    box = (left, top, left + side, top + side)
                    pictures.append(np.asarray(photo.resize((size, size), Image.Resampling.BOX, box=box)))
    stack = np.stack(pictures).transpose(0, 3, 1, 2)
    return np.random.default_rng(0).permutation(stack[contrast_of(thumbnails(stack)) >= CONTRAST])


def changed(pictures: Pixels, change: Change, seed: int = 0) -> Pixels:
    """Apply a change to every picture, each with its own random numbers."""
    out = np.empty_like(pictures)
    for k, picture in enumerate(pictures):
        image = change(Image.fromarray(picture.transpose(1, 2, 0)), np.random.default_rng((seed, k)))
        out[k] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return out


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def upside_down(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(50, 96)))
    return Image.open(file)


def brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))


def contrast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))


def rotation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)


def padded_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift by up to an eighth of the side; black comes in."""
    most = image.width // 8
    left, top = (int(v) for v in rng.integers(-most, most + 1, 2))
    return image.crop((left, top, left + image.width, top + image.height))


def resized_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Keep 70 to 100% of the area, enlarged to the full size."""
    side = image.width * math.sqrt(rng.uniform(0.7, 1))
    left, top = rng.uniform(0, image.width - side, 2)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8) * image.width / 32))


def noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray((pixels + rng.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8))


def training(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What a training pipeline does: flip, padded crop, brightness."""
    image = mirror(image, rng) if rng.random() < 0.5 else image
    return brightness(padded_crop(image, rng), rng)


NEAR: dict[str, Change] = {
    change.__name__: change
    for change in (
        mirror,
        upside_down,
        jpeg,
        brightness,
        contrast,
        rotation,
        padded_crop,
        resized_crop,
        blur,
        noise,
        training,
    )
}
