"""Colours, layout, orientations and gist: each answers to what it is named after, and to its place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_df.models.statistics.scene import Colours, Gist, Layout, Orientations
from tests.models.statistics.views import grey, views


def waves(angle: float, frequency: float) -> Tensor:
    line = torch.arange(32.0)
    phase = 2 * math.pi * frequency * (line * math.cos(angle) + line[:, None] * math.sin(angle))
    return (128 + 50 * phase.sin())[None, None]


def test_colours_count_quantiles_and_clipped_values() -> None:
    ramp = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    found = Colours()(views(ramp))[0]
    assert len(found) == Colours.SIZE
    assert torch.allclose(found[5], torch.tensor(0.5), atol=0.01)  # the median of the first channel
    assert found[[0, 10]].tolist() == [0, 1]
    assert torch.allclose(found[39:43] * 256, torch.tensor([1.0, 2.0, 1.0, 2.0]), atol=1e-3)  # 0; 0 + 2/3 + 1/3


def test_colours_have_their_moments_together_and_alone() -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 16, 16) * torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    seen = views(picture)
    found, pixels, ycc = Colours()(seen)[0], picture[0].flatten(1), seen.ycc[0].flatten(1)
    covariance = torch.cov(ycc, correction=0)[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    assert torch.allclose(found[33:39].sinh(), covariance, rtol=1e-3)
    assert torch.allclose(found[43:46], pixels.mean(1), atol=1e-5)
    assert torch.allclose(found[46:].exp() - 1, pixels.var(1, correction=0) * 255**2, rtol=1e-3)


def test_layout_is_the_image_made_small() -> None:
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, :, 4:6, 10:12] = 1
    found = Layout()(views(picture))[0].reshape(3, 8, 8)
    assert torch.allclose(found[0, 2, 5], torch.tensor(255.0), atol=1e-3)
    assert found.abs().sum() < 256  # and nothing anywhere else, nor any colour


def test_orientations_are_told_apart_in_their_place() -> None:
    for k in range(8):
        picture = waves(k * math.pi / 8, 0.1)
        picture[..., 16:] = 128
        votes = Orientations()(grey(picture))[0].square().reshape(8, 8, 8) - 1e-4
        assert int(votes[:, 2:6, 1:3].sum((1, 2)).argmax()) == k
        assert votes[:, :, 5:].abs().max() < 1e-3


def test_gist_finds_scale_and_orientation() -> None:
    strongest = {}
    for scale, frequency in enumerate((0.4, 0.25, 0.125, 0.0625)):
        for k in (0, 1, 4):
            energies = Gist()(grey(waves(k * math.pi / 6, frequency)))[0].reshape(4, 6, 16).mean(2)
            strongest[scale, k] = divmod(int(energies.argmax()), 6)
    assert strongest == {key: key for key in strongest}


def test_gist_of_a_flat_image_is_nothing() -> None:
    found = Gist()(grey(torch.full((1, 1, 32, 32), 200.0)))
    assert torch.allclose(found, torch.full_like(found, math.log(0.5)), atol=0.01)
