"""Residuals and what is counted of them: patterns, neighbours, correlations, wavelets."""

from __future__ import annotations

import itertools

import pytest
import torch

from robustbench_df.models.statistics.family import Views
from robustbench_df.models.statistics.texture import Correlations, HighPass, Neighbours, Patterns, Wavelets
from tests.models.statistics.views import grey


def of_residuals(luma: torch.Tensor) -> Views:
    """Views with these residuals of luma, ``[N, 8, H, W]``; nothing else can be looked at."""
    nothing = torch.empty(0)
    return Views(nothing, nothing, luma)


def test_high_pass_is_blind_to_slopes_but_for_first_differences() -> None:
    slope = torch.arange(12.0).expand(1, 1, 12, 12) * 5
    inside = HighPass()(slope)[0, :, 3:-3, 3:-3]
    assert torch.allclose(inside[0].abs(), torch.full((6, 6), 5.0), atol=1e-4)
    assert inside[1:].abs().max() < 1e-4


def test_patterns_count_three_in_a_row_once_each() -> None:
    residuals = torch.zeros(1, HighPass.CHANNELS, 3, 4)
    residuals[:, :, 0, 3] = 12.0  # two steps of 6
    found = Patterns()(of_residuals(residuals)).square()[0].reshape(2, 8, -1)[1, -1] - 1e-5  # step 6, the last square
    # Rows: 6 triples, one with the 2 at its end; columns: 4, one of them likewise. Their mean, divided among the
    # pattern's mirror image, its negative and both; what is its own mirror image and negative is not divided.
    mixed, equal = sorted(found.tolist())[-2:]
    assert mixed == pytest.approx((1 / 6 + 1 / 4) / 2 / 4, abs=1e-4)
    assert equal == pytest.approx((5 / 6 + 3 / 4) / 2, abs=1e-4)
    assert sum(found.tolist()) == pytest.approx(mixed + equal, abs=1e-4)


@pytest.mark.parametrize("change", [lambda r: -r, lambda r: r.flip(3), lambda r: r.flip(2)])
def test_patterns_do_not_tell_mirror_images_apart(change) -> None:
    residuals = torch.randn(2, HighPass.CHANNELS, 9, 7) * 8
    count = Patterns()
    plain = count(of_residuals(residuals))
    assert plain.shape == (2, Patterns.SIZE)
    assert torch.allclose(plain, count(of_residuals(change(residuals))), atol=1e-5)
    assert not torch.allclose(plain, count(of_residuals(residuals * 2)), atol=1e-2)


def test_patterns_of_an_image_turned_on_its_side_are_the_same_kernels_across() -> None:
    luma = torch.randn(1, 1, 16, 16) * 20 + 128
    first = Patterns()(grey(luma))[0].reshape(2, 8, -1)
    turned = Patterns()(grey(luma.mT))[0].reshape(2, 8, -1)
    assert torch.allclose(first, turned, atol=1e-4)


def test_neighbours_count_patterns_around_a_pixel() -> None:
    luma = torch.full((1, 1, 6, 6), 100.0)
    luma[..., 3, 3] = 150
    cross, diagonal = (Neighbours()(grey(luma))[0].square().reshape(2, 81) - 1e-5) * 36
    for counts in (cross, diagonal):
        # Four have it on one side, one has all four darker, the others see nothing.
        assert sorted(counts.round().int().tolist())[-6:] == [1, 1, 1, 1, 1, 31]
        assert counts.sum() == pytest.approx(36, abs=0.01)
    darker_all_around = 0
    assert cross[darker_all_around] == pytest.approx(1, abs=0.01)


def test_neighbours_tell_the_nearest_from_the_next() -> None:
    stripes = (torch.arange(12) % 2 * 40.0).expand(1, 1, 12, 12)  # alike above and below, unlike on all other sides
    cross, diagonal = Neighbours()(grey(stripes))[0].square().reshape(2, 81)
    assert torch.allclose(cross.sort().values[-2:], torch.tensor([0.5, 0.5]), atol=1e-3)
    assert int(diagonal.argmax()) in (0, 80)  # all four darker, or all four lighter
    assert int(cross.argmax()) not in (0, 80)


def test_correlations_find_the_distance_at_which_a_pattern_repeats() -> None:
    line = torch.randn(2)
    luma = 128 + 20 * line.repeat(16).expand(1, 1, 32, 32)
    found = Correlations()(grey(luma))[0].reshape(-1, 9)  # log variances, then a row for every lag
    lags = [(y, x) for y, x in itertools.product(range(4), range(-3, 4)) if (y, x) > (0, 0)]
    assert len(found) == len(lags) + 1
    across = found[1:, 0]  # luma, second order across
    assert across[lags.index((0, 2))] > 0.9
    assert across[lags.index((0, 1))] < -0.9
    assert across[lags.index((2, -2))] > 0.9


def test_wavelets_find_the_scale() -> None:
    for scale in range(3):
        stripes = (torch.arange(32) // 2**scale % 2 * 40.0).expand(1, 1, 32, 32)
        found = Wavelets()(grey(stripes))[0].reshape(3, 2, 3, 3)  # scales, energy and sparsity, planes, bands
        energies = found[:, 0, 0]
        assert divmod(int(energies.argmax()), 3) == (scale, 1)
        assert torch.allclose(found[scale, 1, 0, 1], torch.tensor(1.0), atol=0.01)  # as dense as can be
