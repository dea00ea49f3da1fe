"""Statistics as features: each counts what it says, the kernel is the one it stands for, attacks find a gradient."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustbench_df.config import ModelConfig
from robustbench_df.models.detector import Detector
from robustbench_df.models.statistics import Blocks, Colours, CoOccurrences, FourierFeatures, HighPass
from robustbench_df.models.zoo import build_detector


def net(size: tuple[int, int] = (32, 32)) -> Detector:
    torch.manual_seed(0)
    detector, resolved = build_detector(ModelConfig(name="image_statistics", frontend="residual"), size)
    assert resolved.frontend == "rgb"  # it has residuals of its own
    torch.nn.init.normal_(detector.net.head.weight)
    return detector.eval()


def test_blocks_see_jpegs_grid_and_where_it_lies() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (64, 64)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "jpeg", quality=75)
    grey = torch.from_numpy(np.asarray(Image.open(file)).copy()).float()[None, None]
    aligned, moved = (Blocks()(x)[:, 128:].mean() for x in (grey, grey.roll(3, dims=3)))
    assert aligned < 0.06  # rounding to whole grey levels
    assert moved > 2 * aligned


def test_colours_count_quantiles_and_clipped_values() -> None:
    ramp = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    found = Colours()(ramp, ramp * 255)[0]
    assert len(found) == Colours.SIZE
    assert torch.allclose(found[5], torch.tensor(0.5), atol=0.01)  # the median of the first channel
    assert found[[0, 10]].tolist() == [0, 1]
    assert torch.allclose(found[39:43] * 256, torch.tensor([1.0, 2.0, 1.0, 2.0]), atol=1e-3)  # 0; 0 + 2/3 + 1/3


def test_high_pass_is_blind_to_slopes_but_for_first_differences() -> None:
    slope = torch.arange(12.0).expand(1, 1, 12, 12) * 5
    inside = HighPass()(slope)[0, :, 3:-3, 3:-3]
    assert torch.allclose(inside[0].abs(), torch.full((6, 6), 5.0), atol=1e-4)
    assert inside[1:].abs().max() < 1e-4


def test_co_occurrences_count_neighbours_once_each() -> None:
    residuals = torch.zeros(1, HighPass.CHANNELS, 2, 3)
    residuals[:, :, 0, 2] = 12.0  # two steps of 6; its only neighbours are one to the left and one below
    found = CoOccurrences()(residuals).square()[0, -25:] - 1e-5
    # Among the two squares' maps, of step 6: one of four pairs across and one of three down hold a 2 and a 0.
    mixed, equal = sorted(found.tolist())[-2:]
    assert mixed == pytest.approx((1 / 4 + 1 / 3) / 8, abs=1e-3)  # four mirror images, two directions
    assert equal == pytest.approx((3 / 4 + 2 / 3) / 2, abs=1e-3)


@pytest.mark.parametrize("change", [lambda r: -r, lambda r: r.flip(3), lambda r: r.flip(2)])
def test_co_occurrences_do_not_tell_mirror_images_apart(change) -> None:
    residuals = torch.randn(2, HighPass.CHANNELS, 9, 7) * 8
    count = CoOccurrences()
    assert torch.allclose(count(residuals), count(change(residuals)), atol=1e-5)
    assert not torch.allclose(count(residuals), count(residuals * 2), atol=1e-2)


def test_fourier_features_are_a_gaussian_kernel() -> None:
    torch.manual_seed(0)
    layer, x, y = FourierFeatures(20, 20_000), torch.randn(5, 20), torch.randn(5, 20)
    with torch.no_grad():
        product = 2 * (layer(x) * layer(y)).mean(1)
    assert torch.allclose(product, torch.exp(-(x - y).square().sum(1) / 20), atol=0.03)


def test_it_is_exact_under_bf16_autocast_and_every_pixel_has_a_gradient() -> None:
    detector, x = net(), torch.rand(2, 3, 32, 32, requires_grad=True)
    plain = detector(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(detector(x), plain)
    (gradient,) = torch.autograd.grad(plain[:, 1].sum(), x)
    assert (gradient != 0).float().mean() > 0.99


@pytest.mark.parametrize("size", [(8, 8), (21, 40)])
def test_it_takes_any_size(size: tuple[int, int]) -> None:
    logits: Tensor = net(size)(torch.rand(3, 3, *size))
    assert logits.shape == (3, 2)
    assert torch.isfinite(logits).all()
