"""Our convolutions have the library's sums, however they are computed, and step aside where they have no place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.models.zoo import build_detector
from robustbench_df.train import convolution
from robustbench_df.train.convolution import Conv2d, quicken

DEPTHWISE = [  # channels, side, kernel, stride
    (6, 8, 7, 1),
    (6, 9, 5, 2),
    (6, 2, 3, 1),
    (6, 8, 3, 2),
    (6, 20, 5, 1),
]
DENSE = [(6, 4, 3, 1, 1), (6, 8, 3, 2, 1), (6, 1, 1, 1, 0), (6, 4, 2, 2, 0), (6, 5, 3, 1, 0), (6, 12, 3, 1, 1)]


def gradients(conv: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of the images, the weights and the bias, of a loss that looks at every output alike."""
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = conv(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    assert x.grad is not None
    return [y.detach().float(), x.grad, *(p.grad for p in conv.parameters() if p.grad is not None)]


def pair(**arguments: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The library's convolution and ours, of the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.Conv2d(**arguments)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    assert type(ours) is Conv2d
    return theirs, ours


def assert_as_near_to_the_truth(theirs: nn.Module, ours: nn.Module, x: Tensor) -> None:
    """In bfloat16 ours may err about as much as the library's, measured against the library in fp32."""
    found = (gradients(conv, x, dtype) for conv, dtype in ((ours, torch.bfloat16), (theirs, torch.bfloat16)))
    for own, library, truth in zip(*found, gradients(theirs, x, torch.float32), strict=True):
        assert (own - truth).norm() < 2 * (library - truth).norm() + 2e-3 * truth.norm()


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is computed in our way from here on."""
    names: list[str] = []
    for name in ("_all_pairs", "_patches"):
        real = getattr(convolution, name)

        def counted(*arguments: Any, name: str = name, real: Any = real) -> Any:
            names.append(name)
            return real(*arguments)

        monkeypatch.setattr(convolution, name, counted)
    return names


@pytest.mark.parametrize(("channels", "side", "kernel", "stride"), DEPTHWISE)
def test_depthwise_gradients_are_the_librarys(channels: int, side: int, kernel: int, stride: int) -> None:
    theirs, ours = pair(
        in_channels=channels,
        out_channels=channels,
        kernel_size=kernel,
        stride=stride,
        padding=kernel // 2,
        groups=channels,
        bias=True,
    )
    x = torch.rand(3, channels, side, side + 1, generator=torch.Generator().manual_seed(1))
    for one, other in zip(gradients(theirs, x, torch.float32), gradients(ours, x, torch.float32), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "side", "kernel", "stride", "padding"), DENSE)
@pytest.mark.parametrize("bias", [False, True])
def test_dense_gradients_are_the_librarys(
    channels: int, side: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    theirs, ours = pair(
        in_channels=channels, out_channels=5, kernel_size=kernel, stride=stride, padding=padding, bias=bias
    )
    x = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(1))
    assert_as_near_to_the_truth(theirs, ours, x)


@pytest.mark.parametrize(("channels", "side", "kernel", "stride"), DEPTHWISE)
def test_bfloat16_is_as_near_to_the_truth_as_the_librarys(channels: int, side: int, kernel: int, stride: int) -> None:
    theirs, ours = pair(
        in_channels=channels,
        out_channels=channels,
        kernel_size=kernel,
        stride=stride,
        padding=kernel // 2,
        groups=channels,
    )
    x = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(1))
    assert_as_near_to_the_truth(theirs, ours, x)


def test_the_slow_cases_go_our_way_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    x = torch.rand(2, 8, 8, 8)
    wide, narrow = (pair(in_channels=8, out_channels=8, kernel_size=k, padding=k // 2, groups=8)[1] for k in (7, 3))
    gradients(wide, x, torch.float32)
    assert names == ["_all_pairs"]
    gradients(narrow, x, torch.float32)
    assert names == ["_all_pairs"]
    dense = pair(in_channels=8, out_channels=8, kernel_size=3, padding=1)[1]
    gradients(dense, x, torch.bfloat16)  # 8×8 positions: the library's
    gradients(dense, x[:, :, :4, :4], torch.float32)
    assert names == ["_all_pairs"]
    gradients(dense, x[:, :, :4, :4], torch.bfloat16)
    assert set(names[1:]) == {"_patches"}


def test_without_learning_weights_it_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = pair(in_channels=8, out_channels=8, kernel_size=7, padding=3, groups=8)
    names = used(monkeypatch)
    x = torch.rand(2, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    one, other = (gradients(conv.requires_grad_(False), x, torch.float32)[1] for conv in (theirs, ours))
    assert torch.equal(one, other)
    assert not names


def test_weights_keep_their_names_and_other_convolutions_are_left_alone() -> None:
    detector = build_detector(ModelConfig(name="efficientnet_b0", pretrained="never"), (32, 32))[0]
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    quicken(detector)
    after = detector.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(type(part) is Conv2d for part in detector.modules())
    others = nn.ModuleList(
        [nn.Conv2d(3, 3, 3, dilation=2), nn.Conv2d(3, 3, (1, 3)), nn.Conv2d(3, 3, 3, padding_mode="reflect")]
    )
    quicken(others)
    assert all(type(part) is nn.Conv2d for part in others)
