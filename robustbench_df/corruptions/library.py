"""The corruptions of imagecorruptions 1.1.2 (Michaelis et al. 2019, arXiv:1907.07484) as the library computes them.

Use it to compare with published numbers that were computed with the library. It is not installed with this package.
When it is imported, this module patches what prevents it from running or from being reproducible; what it computes
stays unchanged:

- it imports ``pkg_resources``, which current setuptools no longer has: a replacement finds its frost pictures;
- ``np.float_`` (fog) was removed in numpy 2;
- ``multichannel`` (gaussian_blur, glass_blur) is ``channel_axis`` in scikit-image since 0.19;
- ``impulse_noise`` draws from scikit-image's own generator, which ``np.random.seed`` does not affect: it is seeded from
  numpy's generator.

The library has one set of constants, those of ImageNet-C, for every image size. It truncates to 8 bits instead of
rounding. ``spatter`` at severity 1 sometimes divides by zero and returns a black image.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.corruptions.core import checked_severity, image_keys
from robustbench_df.errors import UsageError, nearest

SMALLEST = 32
"""The library refuses smaller images, in pixels a side."""


def library_corrupt(x: Tensor, name: str, severity: int, seed: int = 0, ids: Tensor | None = None) -> Tensor:
    """Return ``x`` corrupted by the library, one image after the other on the CPU.

    Args:
        x: uint8 ``[N, 3, H, W]``, at least 32 pixels a side.
        name: one of the library's 19 corruptions; they have the same names here.
        severity: 0 (the image itself) to 5.
        seed: key of all randomness.
        ids: int64 ``[N]``, a stable number per image that keys its noise; None uses the position in the batch.

    Raises:
        UsageError: imagecorruptions or something it imports is not installed; unknown corruption or severity; images of
            another shape or type; ``ids`` that are not one integer per image.
    """
    if x.ndim != 4 or x.shape[1] != 3 or x.dtype != torch.uint8 or min(x.shape[2:]) < SMALLEST:
        raise UsageError(
            f"imagecorruptions takes uint8 [N, 3, H, W], {SMALLEST} px a side or more, not {x.dtype} {tuple(x.shape)}"
        )
    level, keys = checked_severity(severity), image_keys(x, ids)
    library = mended_library()
    names = library.get_corruption_names("all")
    if name not in names:
        raise UsageError(f"imagecorruptions has no '{name}'{nearest(name, names)}; choose from {', '.join(names)}")
    if level == 0:
        return x.clone()
    pixels = x.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty_like(pixels)
    state = np.random.get_state()  # noqa: NPY002  (the generator that the library draws from)
    try:
        for row, key in enumerate(keys.tolist()):
            np.random.seed(rng.seed_of(int(seed), name, level, key) % 2**32)  # noqa: NPY002
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                out[row] = library.corrupt(pixels[row], severity=level, corruption_name=name)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(x.device)


@functools.cache
def mended_library() -> Any:
    """Import imagecorruptions and patch it (see the module docstring).

    Raises:
        UsageError: imagecorruptions, or something it imports, is not installed.
    """
    stand_in = types.ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = _beside
    before = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy.ndimage.interpolation is deprecated
            library = importlib.import_module("imagecorruptions")
    except ModuleNotFoundError as error:
        if error.name == "imagecorruptions":
            raise UsageError("imagecorruptions is not installed; pip install imagecorruptions") from error
        raise UsageError(f"imagecorruptions needs '{error.name}', which is not installed; pip install it") from error
    finally:
        del sys.modules["pkg_resources"]
        if before is not None:
            sys.modules["pkg_resources"] = before
    _mend(library.corruptions)
    return library


def _mend(module: Any) -> None:
    gaussian, skimage = module.gaussian, module.sk

    def gaussian_with_axis(image: Any, sigma: Any, *, multichannel: bool = False, **others: Any) -> Any:
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **others)

    def seeded_noise(image: Any, **others: Any) -> Any:
        return skimage.util.random_noise(image, rng=np.random.randint(2**31), **others)  # noqa: NPY002

    module.np = types.SimpleNamespace(**{**vars(np), "float_": np.float64})
    module.gaussian = gaussian_with_axis
    module.sk = types.SimpleNamespace(util=types.SimpleNamespace(random_noise=seeded_noise), color=skimage.color)


def _beside(module: str, path: str) -> str:
    """Replace ``pkg_resources.resource_filename``: return the path of a file beside the module."""
    return str(Path(str(sys.modules[module].__file__)).parent / path)
