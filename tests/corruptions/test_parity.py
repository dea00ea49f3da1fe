"""Against imagecorruptions 1.1.2 itself: the same numbers, but for faults of the library that are named here.

Its functions are called directly, before ``corrupt`` cuts their result to whole numbers, and with the noise that we
would have drawn. One level is 1/255. Named faults, each kept out of the comparison at the place where it matters:

- intermediate results are cut to whole numbers (glass_blur): up to 1 level;
- the motion stops at the image's border and the image darkens (motion_blur);
- enlargements are trimmed at one corner only (zoom_blur);
- the way back up is by the nearest pixel, not the published box filter (pixelate): another one where two are as near;
- no affine map (elastic_transform), and settings of its own.

The library has the settings of ImageNet-C alone. Those of CIFAR-10-C are parameters of the very same functions in the
authors' make_cifar_c.py: they are put into the library's.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.core import SEVERITIES
from robustbench_df.corruptions.digital import elastic_transform
from robustbench_df.corruptions.library import library_corrupt, mended_library
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.errors import UsageError
from tests.corruptions.helpers import given, photos, psnr

try:
    mended_library()  # as it is, it cannot be imported
except UsageError as absent:
    pytest.skip(str(absent), allow_module_level=True)

BENCHMARK = tuple(name for name in CORRUPTIONS if CORRUPTIONS[name].group != "web")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's functions, mended, with a generator that the test can replace."""
    corruptions = mended_library().corruptions
    generator = types.SimpleNamespace(**vars(np.random))
    monkeypatch.setattr(corruptions, "np", types.SimpleNamespace(**{**vars(corruptions.np), "random": generator}))
    return corruptions


def theirs(function: Callable[..., Any], image: torch.Tensor, severity: int) -> np.ndarray:
    """The library's answer for one uint8 image, ``[3, H, W]``, in levels, not yet cut to whole numbers."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return np.asarray(function(picture, severity), dtype=np.float64).transpose(2, 0, 1)


def published(module: Any, name: str, constants: str = "imagenet") -> Callable[..., Any]:
    """The library's function with the settings of a constant set; ImageNet-C's are its own."""
    if constants == "imagenet":
        return getattr(module, name)
    settings: list[Any] = [five[0] if len(five) == 1 else five for five in CORRUPTIONS[name].settings[constants]]
    if name == "zoom_blur":
        settings = [np.arange(1, *five) for five in settings]
    source, pattern = inspect.getsource(getattr(module, name)), r"c = .*?\[\s*severity - 1\]"
    source, found = re.subn(pattern, "c = SETTINGS[severity - 1]", source, flags=re.S)
    assert found == 1
    place = {**vars(module), "SETTINGS": settings}
    exec(compile(source, name, "exec"), place)
    return place[name]


def ours(
    name: str, image: torch.Tensor, severity: int, constants: str = "imagenet", **fields: torch.Tensor
) -> np.ndarray:
    """Our answer in levels, not rounded."""
    corruption = CORRUPTIONS[name]
    x, draw = image[None].float() / 255, given(1, **fields)
    out = corruption.apply(x, corruption.settings[constants][severity - 1], draw)[0].clamp(0, 1)
    return out.double().numpy() * 255


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


SETS = pytest.mark.parametrize("constants", ["cifar", "imagenet"])
SIZES = pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224)])
EXACT = ("brightness", "contrast", "saturate", "jpeg_compression", "gaussian_blur", "defocus_blur")
"""Neither noise nor a fault of the library's stands between us."""


@SIZES
@SETS
@pytest.mark.parametrize("name", EXACT)
def test_without_noise_the_same_numbers(module: Any, name: str, constants: str, size: tuple[int, int]) -> None:
    image, function = photos(1, *size)[0], published(module, name, constants)
    for severity in SEVERITIES:
        assert apart(ours(name, image, severity, constants), theirs(function, image, severity)) < 0.01


@SIZES
@pytest.mark.parametrize("name", EXACT)
def test_bytes_are_theirs_within_one_level(name: str, size: tuple[int, int]) -> None:
    x = photos(2, *size)
    for severity in SEVERITIES:
        apart = corrupt(x, name, severity, constants="imagenet").int() - library_corrupt(x, name, severity)
        assert set(apart.unique().tolist()) <= {0, 1}  # they cut decimals off, we round


@SIZES
@SETS
def test_pixelate_is_theirs_with_the_box_filter_on_the_way_back(
    module: Any, monkeypatch: pytest.MonkeyPatch, constants: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "Image", types.SimpleNamespace(BOX=Image.Resampling.BOX, NEAREST=Image.Resampling.BOX))
    image, function = photos(1, *size)[0], published(module, "pixelate", constants)
    for severity in SEVERITIES:  # Pillow rounds after each axis
        assert apart(ours("pixelate", image, severity, constants), theirs(function, image, severity)) < 1.001


@SETS
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
def test_the_same_normal_noise_gives_the_same_image(module: Any, name: str, severity: int, constants: str) -> None:
    image, field = photos(1, 40, 50)[0], np.random.default_rng(0).normal(size=(40, 50, 3))
    module.np.random.normal = lambda size, scale: field.reshape(size) * scale
    mine = ours(name, image, severity, constants, noise=torch.from_numpy(field).permute(2, 0, 1)[None].float())
    assert apart(mine, theirs(published(module, name, constants), image, severity)) < 0.01


@SETS
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_impulses_give_the_same_image(
    module: Any, monkeypatch: pytest.MonkeyPatch, severity: int, constants: str
) -> None:
    image, u = photos(1, 40, 50)[0], np.random.default_rng(0).random((40, 50, 3))
    (share,) = CORRUPTIONS["impulse_noise"].settings[constants][severity - 1]

    class Flips:
        """The library asks which values flip, then which of them to white (below one half)."""

        fields = iter((u, (u >= share / 2).astype(float)))

        def random(self, shape: tuple[int, ...]) -> np.ndarray:
            return next(self.fields).reshape(shape)

    monkeypatch.setattr(np.random, "default_rng", lambda _: Flips())
    mine = ours("impulse_noise", image, severity, constants, noise=torch.from_numpy(u).permute(2, 0, 1)[None].float())
    assert apart(mine, theirs(published(module, "impulse_noise", constants), image, severity)) < 0.01


@SETS
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_walk_gives_the_same_glass(module: Any, severity: int, constants: str) -> None:
    height, width = 40, 36
    _, reach, rounds = (int(value) for value in CORRUPTIONS["glass_blur"].settings[constants][severity - 1])
    side = 2 * reach
    cells = np.random.default_rng(0).integers(0, side**2, (rounds, height - side, width - side))
    # The walk goes from the last pixel to the first and asks for dx, then dy.
    moves = iter(np.stack([cells % side - reach, cells // side - reach], -1)[:, ::-1, ::-1].reshape(-1, 2))
    module.np.random.randint = lambda *_, **__: next(moves)
    draws = {f"turn_{i}": (torch.from_numpy(cells[i])[None].float() + 0.5) / side**2 for i in range(rounds)}
    image = photos(1, height, width)[0]
    mine = ours("glass_blur", image, severity, constants, **draws)
    assert apart(mine, theirs(published(module, "glass_blur", constants), image, severity)) < 1.001


@SETS
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("u", [0.0, 0.31, 0.5, 0.99])
def test_the_same_angle_gives_the_same_motion(module: Any, severity: int, u: float, constants: str) -> None:
    module.np.random.uniform = lambda low, high: low + (high - low) * u
    image = photos(1, 64, 70)[0]
    mine = ours("motion_blur", image, severity, constants, angle=torch.tensor([u]))
    assert apart(mine, theirs(published(module, "motion_blur", constants), image, severity)) < 0.01


def test_motion_longer_than_the_image_darkens_theirs_and_not_ours(module: Any) -> None:
    module.np.random.uniform = lambda *_: 0.0
    grey = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    assert ours("motion_blur", grey, 5, angle=torch.tensor([0.5])).mean() == pytest.approx(100, abs=0.01)
    assert theirs(module.motion_blur, grey, 5).mean() < 99


@SIZES
@SETS
def test_zoom_is_theirs_trimmed_about_the_centre(
    module: Any, monkeypatch: pytest.MonkeyPatch, constants: str, size: tuple[int, int]
) -> None:
    enlarge = module.clipped_zoom

    def centred(image: np.ndarray, factor: float) -> np.ndarray:
        large = enlarge(image, factor)
        top, left = ((big - side) // 2 for big, side in zip(large.shape, size, strict=False))
        return large[top : top + size[0], left : left + size[1]]

    monkeypatch.setattr(module, "clipped_zoom", centred)
    image, function = photos(1, *size)[0], published(module, "zoom_blur", constants)
    for severity in SEVERITIES:
        assert apart(ours("zoom_blur", image, severity, constants), theirs(function, image, severity)) < 0.01


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_field_gives_the_same_elastic_ripple(module: Any, severity: int) -> None:
    side = 64
    noise = np.random.default_rng(0).uniform(-1, 1, (2, side, side))
    fields = iter(noise)
    module.np.random.uniform = lambda _, high, size: next(fields).reshape(size) * high
    image = photos(1, side, side)[0]
    amplitude = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1] * 0.005 * side
    draw = given(1, points=torch.full((1, 3, 2), 0.5), field=(torch.from_numpy(noise)[None].float() + 1) / 2)
    mine = elastic_transform(image[None].float() / 255, (amplitude, 0.01 * side, 0), draw)[0].double().numpy() * 255
    assert apart(mine, theirs(module.elastic_transform, image, severity)) < 0.1


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_noise_of_its_own_has_their_distribution(name: str, severity: int) -> None:
    grey = torch.full((3, 3, 64, 64), 90, dtype=torch.uint8)
    mine = (corrupt(grey.float() / 255, name, severity, constants="imagenet") * 255 + 1e-3).floor()  # they cut
    yours = library_corrupt(grey, name, severity)
    assert stats.ks_2samp(mine.flatten().numpy(), yours.flatten().float().numpy()).pvalue > 1e-3
    assert (mine != 90).float().mean().item() == pytest.approx((yours != 90).float().mean().item(), abs=0.01)


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur"])
def test_blur_with_noise_of_its_own_loses_as_much(name: str) -> None:
    x = photos(24, 64, 64)
    mine, yours = corrupt(x, name, 3, constants="imagenet"), library_corrupt(x, name, 3)
    assert psnr(x / 255, mine / 255) == pytest.approx(psnr(x / 255, yours / 255), abs=0.4)


@pytest.mark.parametrize("name", BENCHMARK)
def test_the_library_runs_and_repeats_itself(name: str) -> None:
    x = photos(2, 48, 40)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    out = library_corrupt(x, name, 2, seed=5, ids=torch.tensor([4, 9]))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    assert not torch.equal(out, x)
    alone = library_corrupt(x[1:], name, 2, seed=5, ids=torch.tensor([9]))
    assert torch.equal(alone[0], out[1])
    assert torch.equal(library_corrupt(x, name, 0), x)
    if CORRUPTIONS[name].random:
        assert not torch.equal(library_corrupt(x, name, 2, seed=6, ids=torch.tensor([4, 9])), out)


def test_what_the_library_cannot_do_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="did you mean 'fog'"):
        library_corrupt(photos(1, 32, 32), "fogg", 1)
    with pytest.raises(UsageError, match="32 px a side"):
        library_corrupt(photos(1, 20, 32), "fog", 1)
    with pytest.raises(UsageError, match="severity must be 0 to 5, not 6"):
        library_corrupt(photos(1, 32, 32), "fog", 6)
