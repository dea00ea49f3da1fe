"""JPEG's grid: where it lies is seen in the coefficients and in the differences across blocks."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_df.models.statistics.blocks import Blocks, Places
from tests.models.statistics.views import grey


def compressed(quality: int) -> Tensor:
    noise = np.random.default_rng(0).normal(128, 20, (64, 64)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "jpeg", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).float()[None, None]


def test_blocks_see_jpegs_grid_and_where_it_lies() -> None:
    picture = compressed(75)
    halves = [  # how often a coefficient lies between two steps: at the levels .5, 1.5 …
        Blocks()(grey(x))[0, :-64].square().reshape(64, -1)[:, 1::2].sum(1).mean()
        for x in (picture, picture.roll(3, 3))
    ]
    assert halves[0] < 0.5 * halves[1]


def test_blocks_count_sizes_in_steps_and_know_the_largest() -> None:
    flat = torch.full((1, 1, 16, 16), 128.0)
    flat[..., :8, :8] += 5  # the mean of one block of four: 8 * 5 / 8 = 5 steps
    found = Blocks()(grey(flat))[0]
    sizes, largest = found[:-64].square().reshape(64, -1) - 1e-5, found[-64:]
    assert torch.allclose(sizes[0], torch.tensor([0.75, 0, 0, 0, 0, 0, 0, 0, 0.25]), atol=1e-3)
    assert torch.allclose(largest[0].exp(), torch.tensor(5.1), atol=1e-2)
    assert torch.allclose(sizes[1:, 0], torch.ones(63), atol=1e-3)


def test_places_see_where_blocks_meet() -> None:
    steps = (torch.arange(32) // 8 * 10.0).expand(1, 1, 32, 32)
    found = Places()(grey(steps))[0].reshape(3, 4, -1)
    across = found[0, 0]  # luma, rows, first differences: by column of the block, then at the border
    assert int(across[:8].argmax()) == 7
    assert torch.allclose(across[7].exp(), torch.tensor(10.3), atol=0.05)
    assert torch.allclose(across[:7].exp(), torch.tensor(0.3), atol=0.01)
    assert torch.allclose(found[0, 2].exp(), torch.tensor(0.3), atol=0.01)  # nothing changes downwards
    assert torch.allclose(Places()(grey(steps.mT))[0].reshape(3, 4, -1)[0, 2], across, atol=1e-3)
