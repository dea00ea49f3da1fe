"""The mean of squeeze-and-excitation has torch's gradient, and the blocks keep their weights and answers."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite as Theirs
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.models.zoo import build_detector
from robustbench_df.train.excitation import _Mean, quicken
from robustbench_df.train.speed import Setting, prepare


def quick(module: nn.Module) -> list[bool]:
    """Of every squeeze-and-excitation, whether it is ours."""
    return [type(part) is not Theirs for part in module.modules() if isinstance(part, Theirs)]


def gradients(block: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of the images and the weights, of a loss that looks at every output differently."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = block(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_and_gradients_are_those_of_timm(dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = Theirs(12, 0.5)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    assert quick(ours) == [True]
    x = torch.rand(3, 12, 5, 4, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )
    for one, other in zip(gradients(theirs, x, dtype), gradients(ours, x, dtype), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_the_gradient_of_the_mean_is_not_written_out() -> None:
    x = torch.rand(3, 12, 5, 4, requires_grad=True)
    strides: list[tuple[int, ...]] = []
    y = x * 1
    y.register_hook(lambda gradient: strides.append(gradient.stride()))
    _Mean.apply(y).sum().backward()
    assert strides[0][2:] == (0, 0)


def test_an_efficientnet_is_quickened_and_keeps_its_weights() -> None:
    detector = build_detector(ModelConfig(name="efficientnet_b0", pretrained="never"), (32, 32))[0].train()
    before = copy.deepcopy(detector.state_dict())
    other = copy.deepcopy(detector)
    quicken(detector)
    assert quick(detector) == [True] * 16
    assert not any(part.inplace for part in detector.modules() if type(part) is nn.SiLU)
    assert list(before) == list(detector.state_dict())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        answers = []
        for each in (other, detector):
            torch.manual_seed(2)  # of dropout and drop-path
            answers.append(each(x))
    assert torch.equal(*answers)


@pytest.mark.parametrize("own", [True, False])
def test_the_setting_says_whose_gradients_an_efficientnet_has(own: bool) -> None:
    detector = build_detector(ModelConfig(name="efficientnet_b0", pretrained="never"), (32, 32))[0]
    prepare(detector, Setting(own_gradients=own))
    assert quick(detector) == [own] * 16


def test_a_timm_without_the_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("timm.models._efficientnet_blocks.SqueezeExcite")
    block = Theirs(12, 0.5)
    quicken(block)
    assert quick(block) == [False]
