"""Each noise has the distribution it claims, and shot noise is the inverse Poisson function to the last count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from robustbench_df.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from tests.corruptions.helpers import draw_for, given


def flat(value: float, n: int = 4, side: int = 100) -> torch.Tensor:
    return torch.full((n, 3, side, side), value)


def test_gaussian_noise_is_normal_with_the_deviation_asked_for() -> None:
    x = flat(0.4)
    noise = (gaussian_noise(x, (0.1,), draw_for(x)) - x) / 0.1
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


def test_speckle_noise_grows_with_the_pixel_and_leaves_black_alone() -> None:
    x = torch.cat([flat(0.0, 1), flat(0.25, 1), flat(0.5, 1)])
    spread = (speckle_noise(x, (0.2,), draw_for(x)) - x).std((1, 2, 3))
    assert spread.tolist() == pytest.approx([0, 0.05, 0.1], rel=0.02)


def test_channels_and_pixels_draw_their_own_number() -> None:
    x = flat(0.5, 1)
    noise = (gaussian_noise(x, (0.1,), draw_for(x)) - x)[0]
    shifted = noise.roll(1, 2)
    pairs = torch.corrcoef(torch.stack([noise[0], noise[1], noise[2], shifted[0]]).flatten(1))
    assert (pairs - torch.eye(4)).abs().max() < 0.03


def test_impulse_noise_sets_the_share_asked_for_half_to_black_half_to_white() -> None:
    x = flat(0.5)
    out = impulse_noise(x, (0.06,), draw_for(x))
    assert (out == 0).float().mean().item() == pytest.approx(0.03, abs=0.002)
    assert (out == 1).float().mean().item() == pytest.approx(0.03, abs=0.002)
    assert ((out == x) | (out == 0) | (out == 1)).all()


@pytest.mark.parametrize("photons", [3.0, 60.0, 500.0])
def test_shot_noise_is_the_inverse_of_the_poisson_distribution_function(photons: float) -> None:
    levels = torch.tensor([0, 1, 2, 17, 128, 254, 255])
    u = torch.cat([torch.tensor([0.0, 1 - 2.0**-24]), torch.rand(3000, generator=torch.Generator().manual_seed(1))])
    x = (levels / 255)[None, None, :, None].expand(1, 3, -1, len(u)).contiguous()
    count = shot_noise(x, (photons,), given(1, level=u.expand(1, 3, len(levels), -1))) * photons
    expected = stats.poisson.ppf(u.double().clamp(min=2.0**-25), (levels.double() / 255 * photons)[:, None])
    # A number within the rounding of float32 of a step of the function may fall on either side of it.
    off = np.abs(count[0, 0].numpy() - expected).round()
    assert off[:, 2:].max() <= 1
    assert off[:, 2:].mean() < 1e-3
    assert off[:, :2].max() <= 4  # the first and the last of 2 ** 24 numbers, where steps are that fine


@pytest.mark.parametrize("value", [0.5, 100.5 / 255, 0.3 / 255, 200.9 / 255])
def test_shot_noise_between_two_levels_is_poisson_too(value: float) -> None:
    photons = 60.0
    x = flat(value)
    count = (shot_noise(x, (photons,), draw_for(x)) * photons).round().flatten().long()
    seen = torch.bincount(count).double()
    expected = torch.from_numpy(stats.poisson.pmf(range(len(seen)), value * photons)) * len(count)
    common = expected > 5
    chi = ((seen - expected)[common] ** 2 / expected[common]).sum().item()
    assert stats.chi2.sf(chi, int(common.sum())) > 1e-3


def test_shot_noise_leaves_black_black_and_counts_whole_photons() -> None:
    x = flat(0.0, 1)
    assert (shot_noise(x, (5.0,), draw_for(x)) == 0).all()
    count = shot_noise(flat(0.7, 1), (5.0,), draw_for(x)) * 5
    assert (count - count.round()).abs().max() < 1e-5
