"""What a map is worth: figures that tell a map of the evidence from one of anything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_df.explaining.trust import extra_drop, hottest, moved, painted, rank_correlation
from robustbench_df.metrics.scores import probability

N, SIDE = 12, 16
IDS = torch.arange(N)


def random_maps(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((N, SIDE, SIDE), np.float32)


def test_rank_correlation_sees_order_alone() -> None:
    maps = random_maps()
    np.testing.assert_allclose(rank_correlation(maps, maps**3), 1)
    np.testing.assert_allclose(rank_correlation(maps, -maps), -1)
    assert np.abs(rank_correlation(maps, random_maps(1))).max() < 0.3
    maps[3] = 0
    found = rank_correlation(maps, random_maps(1))
    assert np.isnan(found[3])
    assert np.isfinite(np.delete(found, 3)).all()


def test_the_hottest_pixels_are_a_fifth_and_ties_fall_anywhere() -> None:
    maps = random_maps()
    mask = hottest(maps, IDS)
    count = round(0.2 * SIDE * SIDE)
    assert (mask.flatten(1).sum(1) == count).all()
    for own, chosen in zip(maps, mask.numpy(), strict=True):
        assert own[chosen].min() >= own[~chosen].max() - 1e-5
    flat = np.zeros_like(maps)
    flat[:, 5, 5] = 1
    tied = hottest(flat, IDS)
    assert tied[:, 5, 5].all()
    assert not torch.equal(tied[0], tied[1])
    assert tied[:, SIDE // 2 :].any()  # not all from the top


def test_a_moved_mask_has_the_same_shape_elsewhere() -> None:
    mask = torch.zeros(N, SIDE, SIDE, dtype=torch.bool)
    mask[:, 2:5, 3:9] = True
    other = moved(mask, IDS, 0, "moved", 0)
    assert (other.flatten(1).sum(1) == 18).all()
    for own in other:  # rolled back by its first row and column it is the same rectangle
        rolled = [own.roll((-dy, -dx), (0, 1)) for dy in range(SIDE) for dx in range(SIDE)]
        assert any(torch.equal(one, mask[0]) for one in rolled)
    assert len({tuple(own.flatten().tolist()) for own in other}) > N // 2
    assert torch.equal(moved(mask[4:6], IDS[4:6], 0, "moved", 0), other[4:6])


def test_paint_has_the_images_own_mean_colour() -> None:
    x = torch.rand(2, 3, SIDE, SIDE)
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[:, :4] = True
    out = painted(x, mask)
    assert torch.equal(out[:, :, 4:], x[:, :, 4:])
    torch.testing.assert_close(out[:, :, 0, 0], x.mean((2, 3)))


def corner_detector(x: Tensor) -> NDArray[np.float64]:
    """P(fake) from the brightness of the top left corner alone."""
    return probability(np.asarray(10 * (x[:, :, :7, :7].mean((1, 2, 3)) - 0.5), np.float64))


@pytest.mark.parametrize("fake", [0, 1])
def test_a_map_of_the_evidence_drops_more_and_one_of_something_else_less(fake: int) -> None:
    x = torch.rand(N, 3, SIDE, SIDE)
    x[:, :, :7, :7] = 0.9 if fake else 0.1
    verdict = np.full(N, fake, np.int8)
    right, wrong = np.zeros((2, N, SIDE, SIDE), np.float32)
    right[:, :7, :7] = wrong[:, -7:, -7:] = 1
    assert extra_drop(corner_detector, x, right, verdict, IDS).mean() > 0.2
    assert extra_drop(corner_detector, x, wrong, verdict, IDS).mean() < 0
    assert np.abs(extra_drop(lambda x: np.full(len(x), 0.7), x, right, verdict, IDS)).max() < 1e-12
