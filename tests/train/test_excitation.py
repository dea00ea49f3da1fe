"""The mean of squeeze-and-excitation has torch's gradient, and the blocks keep their weights and answers."""

from __future__ import annotations

import copy

import torch
from timm.models._efficientnet_blocks import SqueezeExcite as Theirs
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.models.zoo import build_detector
from robustbench_df.train.excitation import SqueezeExcite, _Mean, quicken


def gradients(block: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of the images and the weights, of a loss that looks at every output differently."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    y = block(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


def test_answers_and_gradients_are_those_of_timm() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = Theirs(12, 0.5)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    assert type(ours) is SqueezeExcite
    x = torch.rand(3, 12, 5, 4, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )
    for one, other in zip(gradients(theirs, x), gradients(ours, x), strict=True):
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
    assert any(type(part) is SqueezeExcite for part in detector.modules())
    assert not any(part.inplace for part in detector.modules() if type(part) is nn.SiLU)
    assert list(before) == list(detector.state_dict())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        answers = []
        for each in (other, detector):
            torch.manual_seed(2)  # of dropout and drop-path
            answers.append(each(x))
    assert torch.equal(*answers)
