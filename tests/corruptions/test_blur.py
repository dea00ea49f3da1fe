"""Blurs against scipy and against the plain loops of the papers' code; no light is lost; any size works."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from robustbench_df.corruptions.blur import (
    defocus_blur,
    disk,
    gaussian,
    gaussian_blur,
    glass_blur,
    motion_blur,
    streak,
    zoom_blur,
)
from robustbench_df.corruptions.suite import corrupt
from tests.corruptions.helpers import draw_for, floats, given


@pytest.mark.parametrize(("border", "mode"), [("edge", "nearest"), ("mirror", "mirror"), ("symmetric", "reflect")])
@pytest.mark.parametrize(("sigma", "size"), [(0.6, (9, 14)), (3.0, (5, 300)), (7.0, (4, 1))])
def test_gaussian_equals_scipy_at_every_border_and_size(
    border: str, mode: str, sigma: float, size: tuple[int, int]
) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode=mode, truncate=3.0)
    assert np.abs(gaussian(x, sigma, border, 3.0).numpy() - expected).max() < 1e-5  # type: ignore[arg-type]


def test_gaussian_of_less_than_a_pixel_does_nothing() -> None:
    x = floats(1, 8, 8)
    assert torch.equal(gaussian_blur(x, (0.05,), draw_for(x)), x)


@pytest.mark.parametrize("setting", [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
@pytest.mark.parametrize("size", [(33, 47), (6, 5), (1, 1)])
def test_defocus_averages_over_the_disc(setting: tuple[float, float], size: tuple[int, int]) -> None:
    x = floats(1, *size)
    kernel = disk(*setting).double().numpy()
    touches = setting[0] >= 8  # the published kernel mirrors its rim there
    assert kernel.sum() == pytest.approx(1.01 if touches else 1, abs=5e-3 if touches else 1e-6)
    expected = ndimage.correlate(x.double().numpy(), kernel[None, None], mode="mirror")
    assert np.abs(defocus_blur(x, setting, draw_for(x)).numpy() - expected).max() < 1e-5


def test_the_disc_is_round_and_as_wide_as_its_radius() -> None:
    kernel = disk(6, 0.1)
    assert torch.equal(kernel, kernel.T)
    assert torch.equal(kernel, kernel.flip(0))
    across = kernel[len(kernel) // 2]
    assert (across > 1e-3).sum() == 13


def walked(pixels: np.ndarray, moves: np.ndarray, reach: int) -> np.ndarray:
    """The published walk, on one image ``[H, W, 3]``; ``moves [round, H', W', (x, y)]`` from the last pixel on."""
    out = pixels.copy()
    height, width = out.shape[:2]
    for turn in moves:
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = turn[h - reach - 1, w - reach - 1]
                out[h, w], out[h + dy, w + dx] = out[h + dy, w + dx], out[h, w]
    return out


@pytest.mark.parametrize(("reach", "rounds"), [(1, 2), (2, 3), (4, 2)])
def test_glass_blur_is_the_published_walk(reach: int, rounds: int) -> None:
    height, width, side = 21, 26, 2 * reach
    x = floats(3, height, width)
    cells = np.random.default_rng(0).integers(0, side**2, (rounds, 3, height - side, width - side))
    draws = {f"turn_{i}": (torch.from_numpy(cells[i]).float() + 0.5) / side**2 for i in range(rounds)}
    out = glass_blur(x, (0.01, reach, rounds), given(3, **draws))
    moves = np.stack([cells % side - reach, cells // side - reach], -1)
    for i in range(3):
        expected = walked(x[i].permute(1, 2, 0).numpy(), moves[:, i], reach)
        assert np.array_equal(out[i].permute(1, 2, 0).numpy(), expected)


def test_glass_blur_on_an_image_smaller_than_its_reach_only_blurs() -> None:
    x = floats(2, 6, 7)
    assert torch.equal(glass_blur(x, (1.5, 4, 2), draw_for(x)), gaussian(gaussian(x, 1.5), 1.5))


def dragged(pixels: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """ImageMagick's motion blur as a loop over the pixels of a line, ``[3, H, W]``."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    rows, columns = np.indices(pixels.shape[1:])
    out = np.zeros(pixels.shape)
    for i, weight in enumerate(weights / weights.sum()):
        dy = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        near = rows + dy, columns + dx
        out += weight * pixels[:, near[0].clip(0, pixels.shape[1] - 1), near[1].clip(0, pixels.shape[2] - 1)]
    return out


def test_a_streak_follows_its_angle() -> None:
    x = floats(9, 20, 31)
    degrees = torch.tensor([-135.0, 44.9, -44.9, 0.0, 17.0, 17.2, 90.0, -90.0, 17.0])
    out = streak(x, 15, 8, degrees)
    for i, angle in enumerate(degrees.tolist()):
        assert np.abs(out[i].numpy() - dragged(x[i].double().numpy(), 15, 8, angle)).max() < 1e-5


def test_motion_blur_draws_an_angle_between_minus_45_and_45() -> None:
    x = floats(3, 24, 24)
    u = torch.tensor([0.0, 0.5, 0.9])
    expected = streak(x, 6, 2, torch.tensor([-45.0, 0.0, 36.0]))
    assert torch.allclose(motion_blur(x, (6, 2), given(3, angle=u)), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_zoom_blur_averages_enlargements_trimmed_about_the_centre(size: tuple[int, int]) -> None:
    x = floats(1, *size)
    expected, factors = x[0].double().numpy(), np.arange(1, 1.26, 0.01)
    for factor in factors:
        kept = [math.ceil(side / factor) for side in size]
        top, left = ((side - keep) // 2 for side, keep in zip(size, kept, strict=True))
        part = x[0, :, top : top + kept[0], left : left + kept[1]].double().numpy()
        large = ndimage.zoom(part, (1, factor, factor), order=1)
        top, left = ((big - side) // 2 for big, side in zip(large.shape[1:], size, strict=True))
        expected = expected + large[:, top : top + size[0], left : left + size[1]]
    expected /= len(factors) + 1
    assert np.abs(zoom_blur(x, (1.26, 0.01), draw_for(x))[0].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (33, 47), (300, 20)])
def test_no_blur_changes_a_plain_image(size: tuple[int, int]) -> None:
    x = torch.tensor([0.2, 0.5, 0.9]).reshape(1, 3, 1, 1).expand(2, 3, *size).contiguous()

    def same(out: Tensor) -> bool:
        return out.shape == x.shape and bool((out - x).abs().max() < 1e-5)

    assert same(gaussian_blur(x, (6,), draw_for(x)))
    assert same(defocus_blur(x, (6, 0.5), draw_for(x)))
    assert same(glass_blur(x, (1.5, 4, 2), draw_for(x)))
    assert same(motion_blur(x, (20, 15), draw_for(x)))
    assert same(zoom_blur(x, (1.31, 0.03), draw_for(x)))


def test_defocus_is_computed_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's shorter mantissa would give other pixels than a CPU's for the same key."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    whole = F.conv2d

    def conv2d(*args: Any, **options: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return whole(*args, **options)

    monkeypatch.setattr(F, "conv2d", conv2d)
    corrupt(torch.rand(2, 3, 32, 32), "defocus_blur", 3)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32
