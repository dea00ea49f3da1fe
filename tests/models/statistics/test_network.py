"""The network of statistics: what it standardises and which kernel it is; attacks find a gradient, any size goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector
from robustbench_df.models.statistics import network
from robustbench_df.models.statistics.blocks import Places
from robustbench_df.models.statistics.network import FourierFeatures, Standardize
from robustbench_df.models.statistics.scene import Layout
from robustbench_df.models.statistics.texture import Correlations, Wavelets
from robustbench_df.models.zoo import build_detector
from tests.models.statistics.views import views


def net(size: tuple[int, int] = (32, 32)) -> Detector:
    torch.manual_seed(0)
    detector, resolved = build_detector(ModelConfig(name="image_statistics", frontend="residual"), size)
    assert resolved.frontend == "rgb"  # it has residuals of its own
    torch.nn.init.normal_(detector.net.head.weight)
    return detector.eval()


def test_standardize_has_the_moments_of_all_that_was_seen_and_is_the_same_in_training() -> None:
    x = torch.randn(60, 4) * torch.tensor([0.1, 1.0, 5.0, 0.0]) + 3
    layer = Standardize(4)
    for part in x.split([7, 30, 23]):
        layer(part)
    found = layer.eval()(x)
    assert torch.allclose(found[:, :3].mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(found[:, :3].std(0, correction=0), torch.ones(3), atol=1e-3)
    assert found[:, 3].abs().max() < 0.01  # what never changed is at zero
    assert torch.equal(layer(x[:2]), found[:2])  # whatever it is seen with
    again = Standardize(4)
    again.load_state_dict(layer.state_dict())
    again.train()(x * 2)
    assert torch.allclose(again.mean, x.mean(0) * 1.5, atol=1e-4)  # a checkpoint goes on counting


def test_fourier_features_are_a_gaussian_kernel_and_stay_as_drawn() -> None:
    torch.manual_seed(0)
    layer, x, y = FourierFeatures(20, 20_000), torch.randn(5, 20), torch.randn(5, 20)
    product = 2 * (layer(x) * layer(y)).mean(1)
    assert torch.allclose(product, torch.exp(-(x - y).square().sum(1) / 40), atol=0.03)
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"weight", "bias"}  # a checkpoint must bring them back


def test_it_is_exact_under_bf16_autocast_and_every_pixel_has_a_gradient() -> None:
    detector, x = net(), torch.rand(2, 3, 32, 32, requires_grad=True)
    plain = detector(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(detector(x), plain)
    (gradient,) = torch.autograd.grad(plain[:, 1].sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99


def test_flat_images_have_finite_gradients_too() -> None:
    x = torch.full((2, 3, 32, 32), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(net()(x)[:, 1].sum(), x)
    assert torch.isfinite(gradient).all()


def test_its_sizes_are_those_of_its_families() -> None:
    detector = net()
    assert detector.net.statistics(torch.rand(2, 3, 32, 32)).shape == (2, 2986)
    assert sum(p.numel() for p in detector.parameters()) == 40_962


@pytest.mark.parametrize("family", [Layout, Places, Correlations, Wavelets])
def test_what_differs_in_colour_alone_is_seen(family: type[nn.Module]) -> None:
    blue = torch.randn(1, 1, 32, 32) / 10
    speckles = torch.cat([0 * blue, -blue * 0.114 / 0.587, blue], dim=1)  # all of the same luma
    grey = torch.full_like(speckles, 0.5)
    assert torch.allclose(views(grey + speckles).luma, views(grey).luma, atol=1e-3)
    changed = family()(views(grey + speckles)) - family()(views(grey))
    assert changed.abs().max() > 0.5


@pytest.mark.parametrize("size", [(8, 8), (21, 40)])
def test_it_takes_any_size(size: tuple[int, int]) -> None:
    logits: Tensor = net(size)(torch.rand(3, 3, *size))
    assert logits.shape == (3, 2)
    assert torch.isfinite(logits).all()


def test_large_batches_are_looked_at_in_parts_and_keep_little_for_their_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector, x = net(), torch.rand(5, 3, 32, 32, requires_grad=True)
    fixed = {buffer.data_ptr() for buffer in detector.buffers()}

    def seen() -> tuple[Tensor, Tensor, int]:
        kept: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in fixed:
                kept.append(tensor.nbytes)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = detector(x)
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
        return logits, gradient, sum(kept)

    logits, gradient, kept = seen()
    monkeypatch.setattr(network, "_CPU_PIXELS", 2 * 32 * 32)
    parts, gradient_of_parts, kept_of_parts = seen()
    assert torch.allclose(parts, logits, rtol=1e-4)
    assert torch.allclose(gradient_of_parts, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())
    assert kept_of_parts < kept / 10
    monkeypatch.setattr(network, "checkpoint", lambda *_, **__: pytest.fail("nothing is asked for again"))
    assert torch.allclose(detector(x.detach()), logits, rtol=1e-4)


def test_images_smaller_than_a_block_are_one_line() -> None:
    with pytest.raises(ModelError, match="at least 8 px"):
        net((7, 40))
