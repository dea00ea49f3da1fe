"""`feature_map`: the deepest layer that still says where, whatever the architecture's layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector
from robustbench_df.models.layers import feature_map
from robustbench_df.models.zoo import build_detector

SIZE = (32, 32)


def detector(name: str, size: tuple[int, int] = SIZE, **extra: Any) -> Detector:
    return build_detector(ModelConfig(name=name, pretrained="never", **extra), size)[0]


@pytest.mark.parametrize(
    ("name", "stem", "layer", "cells"),
    [
        ("convnext_tiny", "small", "net.stages.1", 8),
        ("convnext_tiny", "native", "net.stages.0", 8),
        ("efficientnet_b0", "small", "net.blocks.2", 8),
        ("efficientnet_b0", "native", "net.blocks.1", 8),
        ("resnet_se", "auto", "net.stages.1", 8),
        ("resnet_se_small", "auto", "net.stages.1", 8),
        ("vgg6", "auto", "net.stages.1", 8),
        ("resnet18", "native", "net.layer1", 8),
        ("densenet121", "small", "net.features.denseblock3", 8),
        ("timm:resnet10t", "auto", "net.layer1", 8),
    ],
)
def test_the_deepest_map_of_seven_cells_a_side(name: str, stem: str, layer: str, cells: int) -> None:
    one = detector(name, stem=stem)
    one.train()
    found = feature_map(one, SIZE)
    assert (found.name, found.size) == (layer, (cells, cells))
    assert one.get_submodule(found.name) is found.module
    assert all(module.training for module in one.modules())
    assert not found.module._forward_hooks


def test_a_detector_that_enlarges_its_images_is_looked_into_at_that_size() -> None:
    one = detector("resnet18", stem="native", input_size=128)
    assert feature_map(one, SIZE).name == "net.layer3"
    assert feature_map(one, SIZE).size == (8, 8)


def test_at_the_size_of_imagenet_it_is_the_last_stage() -> None:
    assert feature_map(detector("resnet18", stem="native", input_size=224), SIZE).name == "net.layer4"


def test_where_no_map_has_seven_cells_four_will_do() -> None:
    found = feature_map(detector("resnet_se_small", (12, 12)), (12, 12))
    assert (found.name, found.size) == ("net.stages.0", (6, 6))


def test_oblong_images_have_oblong_maps() -> None:
    assert feature_map(detector("resnet_se_small", (32, 64)), (32, 64)).size == (8, 16)


def test_tokens_become_a_map_in_reading_order() -> None:
    found = feature_map(detector("timm:vit_tiny_patch16_224", input_size=224), SIZE)
    assert (found.name, found.size) == ("net.blocks.11.norm1", (14, 14))
    assert found.reshape is not None
    tokens = torch.arange(1 + 14 * 14).reshape(1, -1, 1).expand(2, -1, 3) - 1  # the class token is -1
    unfolded = found.reshape(tokens)
    assert unfolded.shape == (2, 3, 14, 14)
    assert unfolded[1, 2, 3, 5] == 3 * 14 + 5


class ChannelsLast(nn.Module):
    """A stage as Swin's: ``[N, H, W, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = [{"module": "stage", "num_chs": 6}]
        self.stage = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stage(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


def test_channels_last_are_brought_to_the_front() -> None:
    found = feature_map(Detector(ChannelsLast()), (8, 5))
    assert found.size == (8, 5)
    assert found.reshape is not None
    assert found.reshape(torch.zeros(1, 8, 5, 6)).shape == (1, 6, 8, 5)


def test_what_has_no_map_is_refused_with_a_remedy() -> None:
    with pytest.raises(ModelError, match=r"MLP has no feature map.*--model"):
        feature_map(detector("mlp"), SIZE)
    with pytest.raises(ModelError, match=r"4×4 at 3×3 px \(net.stages.0 2×2, net.stages.1 1×1.*input_size"):
        feature_map(detector("resnet_se_small", (3, 3)), (3, 3))
