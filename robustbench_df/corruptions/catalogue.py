"""The corruptions by name, with the settings of both constant sets.

The ``cifar`` settings are those of CIFAR-10-C, chosen for 32 px; the ``imagenet`` settings are those of ImageNet-C,
chosen for 224 px (Hendrycks & Dietterich 2019, arXiv:1903.12261; their make_cifar_c.py and make_imagenet_c.py). The
order is: the 15 corruptions that the benchmarks average over, their four extra ones, then what happens to pictures on
the web (`web`). The docstring of each function explains its settings; lengths are in pixels at every image size.
"""

from __future__ import annotations

from robustbench_df.corruptions import blur, digital, noise, weather, web
from robustbench_df.corruptions.core import CORRUPTIONS, Corruption, Setting

__all__ = ["CORRUPTIONS"]


def _each(*values: float) -> tuple[Setting, ...]:
    """Return settings of one number each."""
    return tuple((value,) for value in values)


_ELASTIC_UNIT = 244
"""make_imagenet_c.py gives the settings of elastic_transform in units of 244 pixels ("should have been 224")."""

_TABLE = {
    "gaussian_noise": Corruption(
        "normal noise",
        noise.gaussian_noise,
        {"cifar": _each(0.04, 0.06, 0.08, 0.09, 0.10), "imagenet": _each(0.08, 0.12, 0.18, 0.26, 0.38)},
        "noise",
        random=True,
    ),
    "shot_noise": Corruption(
        "few photons (Poisson)",
        noise.shot_noise,
        {"cifar": _each(500, 250, 100, 75, 50), "imagenet": _each(60, 25, 12, 5, 3)},
        "noise",
        random=True,
    ),
    "impulse_noise": Corruption(
        "values set to black or white",
        noise.impulse_noise,
        {"cifar": _each(0.01, 0.02, 0.03, 0.05, 0.07), "imagenet": _each(0.03, 0.06, 0.09, 0.17, 0.27)},
        "noise",
        random=True,
    ),
    "defocus_blur": Corruption(
        "lens out of focus",
        blur.defocus_blur,
        {
            "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        },
        "blur",
    ),
    "glass_blur": Corruption(
        "frosted glass",
        blur.glass_blur,
        {
            "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        },
        "blur",
        random=True,
    ),
    "motion_blur": Corruption(
        "the camera moved",
        blur.motion_blur,
        {
            "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        },
        "blur",
        random=True,
    ),
    "zoom_blur": Corruption(
        "the camera came nearer",
        blur.zoom_blur,
        {
            "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
            "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        },
        "blur",
    ),
    "snow": Corruption("falling snow", weather.snow, weather.SNOW, "weather", random=True),
    "frost": Corruption("ice on the glass", weather.frost, weather.FROST, "weather", random=True),
    "fog": Corruption("clouds of fog", weather.fog, weather.FOG, "weather", random=True),
    "brightness": Corruption(
        "brighter",
        digital.brightness,
        {"cifar": _each(0.05, 0.1, 0.15, 0.2, 0.3), "imagenet": _each(0.1, 0.2, 0.3, 0.4, 0.5)},
        "digital",
    ),
    "contrast": Corruption(
        "less contrast",
        digital.contrast,
        {"cifar": _each(0.75, 0.5, 0.4, 0.3, 0.15), "imagenet": _each(0.4, 0.3, 0.2, 0.1, 0.05)},
        "digital",
    ),
    "elastic_transform": Corruption(
        "stretched and rippled",
        digital.elastic_transform,
        {
            # Units of 32 pixels in make_cifar_c.py; severity 1 has no ripple.
            "cifar": (
                (0, 0, 32 * 0.08),
                (32 * 0.05, 32 * 0.2, 32 * 0.07),
                (32 * 0.08, 32 * 0.06, 32 * 0.06),
                (32 * 0.1, 32 * 0.04, 32 * 0.05),
                (32 * 0.1, 32 * 0.03, 32 * 0.03),
            ),
            "imagenet": (
                (_ELASTIC_UNIT * 2, _ELASTIC_UNIT * 0.7, _ELASTIC_UNIT * 0.1),
                (_ELASTIC_UNIT * 2, _ELASTIC_UNIT * 0.08, _ELASTIC_UNIT * 0.2),
                (_ELASTIC_UNIT * 0.05, _ELASTIC_UNIT * 0.01, _ELASTIC_UNIT * 0.02),
                (_ELASTIC_UNIT * 0.07, _ELASTIC_UNIT * 0.01, _ELASTIC_UNIT * 0.02),
                (_ELASTIC_UNIT * 0.12, _ELASTIC_UNIT * 0.01, _ELASTIC_UNIT * 0.02),
            ),
        },
        "digital",
        random=True,
    ),
    "pixelate": Corruption(
        "fewer pixels",
        digital.pixelate,
        {"cifar": _each(0.95, 0.9, 0.85, 0.75, 0.65), "imagenet": _each(0.6, 0.5, 0.4, 0.3, 0.25)},
        "digital",
    ),
    "jpeg_compression": Corruption(
        "JPEG",
        digital.jpeg_compression,
        {"cifar": _each(80, 65, 58, 50, 40), "imagenet": _each(25, 18, 15, 10, 7)},
        "digital",
        codec=True,
    ),
    "speckle_noise": Corruption(
        "normal noise in proportion to the light",
        noise.speckle_noise,
        {"cifar": _each(0.06, 0.1, 0.12, 0.16, 0.2), "imagenet": _each(0.15, 0.2, 0.35, 0.45, 0.6)},
        "extra",
        random=True,
    ),
    "gaussian_blur": Corruption(
        "Gaussian blur",
        blur.gaussian_blur,
        {"cifar": _each(0.4, 0.6, 0.7, 0.8, 1), "imagenet": _each(1, 2, 3, 4, 6)},
        "extra",
    ),
    "spatter": Corruption("drops and mud", weather.spatter, weather.SPATTER, "extra", random=True),
    "saturate": Corruption(
        "paler, then stronger colours",
        digital.saturate,
        {
            "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
            "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        },
        "extra",
    ),
}

for _name, _corruption in (_TABLE | web.WEB).items():
    CORRUPTIONS.register(_name)(_corruption)
