"""The residual front-end: the filters it says, alive to attacks, and neutral for weights made for colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustbench_df.config import ModelConfig
from robustbench_df.models.frontend import CHANNELS, LEVELS, Residuals
from robustbench_df.models.zoo import build_detector

SIZE = (32, 32)


def test_it_is_the_truncated_difference_of_neighbours() -> None:
    x = torch.rand(2, 3, 9, 7)
    out = Residuals()(x)
    assert out.shape == (2, CHANNELS, 9, 7)
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1)
    right = torch.tanh((luma[:, :, 1:] - luma[:, :, :-1]) * 255 / LEVELS)
    assert torch.allclose(out[:, 0, :, :-1], right, atol=1e-5)
    second = torch.tanh((luma[:, 2:] - 2 * luma[:, 1:-1] + luma[:, :-2]) * 255 / LEVELS)
    assert torch.allclose(out[:, 3, 1:-1], second, atol=1e-4)


def test_flat_images_have_no_residual() -> None:
    flat = torch.rand(3, 3, 1, 1).expand(3, 3, 8, 8)
    assert Residuals()(flat).abs().max() < 1e-3


def test_it_is_exact_under_bf16_autocast_and_lets_gradients_through() -> None:
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    plain = Residuals()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Residuals()(x), plain)
    (gradient,) = torch.autograd.grad(plain.sum(), x)
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("name", ["resnet_se_small", "efficientnet_b0", "convnext_tiny", "resnet18", "mlp"])
def test_every_family_takes_the_extra_channels(name: str) -> None:
    config = ModelConfig(name=name, pretrained="never", frontend="residual")
    detector, resolved = build_detector(config, SIZE)
    assert resolved.frontend == "residual"
    assert detector.eval()(torch.rand(2, 3, *SIZE)).shape == (2, 2)


def test_weights_made_for_colours_compute_as_before(tmp_path: Path) -> None:
    plain, _ = build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), SIZE)
    path = tmp_path / "colours.safetensors"
    save_file({k: v.contiguous() for k, v in plain.net.state_dict().items()}, path)
    config = ModelConfig(name="resnet_se_small", frontend="residual", weights=str(path))
    wide, _ = build_detector(config, SIZE)
    x = torch.rand(4, 3, *SIZE)
    assert torch.allclose(wide.eval()(x), plain.eval()(x), atol=1e-5)
