"""The small VGG has the size it says, and its head looks at a feature's mean as well as at its maximum."""

from __future__ import annotations

import pytest
import torch

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models.vgg import VGG6, Stage
from robustbench_df.models.zoo import build_detector


def test_it_has_the_size_it_says() -> None:
    detector, _ = build_detector(ModelConfig(name="vgg6", pretrained="never"), (32, 32))
    assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 1) == 0.6
    convolutions = [part for part in detector.modules() if isinstance(part, torch.nn.Conv2d)]
    assert [part.kernel_size for part in convolutions] == [(3, 3)] * 6


@pytest.mark.parametrize(("side", "last"), [(32, 4), (27, 3), (8, 1)])
def test_every_stage_halves_the_map(side: int, last: int) -> None:
    net = VGG6(width=4).eval()
    assert net.stages(torch.rand(2, 3, side, side)).shape == (2, 8, last, last)
    assert net(torch.rand(2, 3, side, side)).shape == (2, 2)


def test_an_image_too_small_to_pool_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 8 px"):
        build_detector(ModelConfig(name="vgg6", pretrained="never"), (7, 7))


def test_the_head_tells_one_place_from_everywhere() -> None:
    """Two maps of the same mean, or of the same maximum, get different answers."""
    net = VGG6(width=4).eval()
    maps = torch.zeros(3, 8, 4, 4)
    maps[0] = 1
    maps[1, :, 0, 0] = 16  # the mean of the first
    maps[2, :, 0, 0] = 1  # its maximum
    net.stages = torch.nn.Sequential(torch.nn.Identity())
    with torch.no_grad():
        one, concentrated, rare = net(maps)
    assert not torch.allclose(one, concentrated)
    assert not torch.allclose(one, rare)


def test_pooling_comes_before_the_normalisation() -> None:
    stage = Stage(3, 4)
    seen: list[torch.Size] = []
    stage.bn1.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    stage(torch.rand(2, 3, 10, 12))
    assert seen == [(2, 4, 5, 6)]
