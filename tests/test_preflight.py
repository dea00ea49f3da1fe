"""What is refused before a run begins, by detectors that are built and shown two images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robustbench_df.config import RunConfig, load_config
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector
from robustbench_df.preflight import require_buildable
from robustbench_df.train.report import Reporter
from tests.conftest import learnable_set


def settings(*models: str, **values: Any) -> RunConfig:
    model = {"pretrained": "never", **values.pop("model", {})}
    return load_config("full", models=models, model=model, per_model={}, **values)


def test_a_network_that_cannot_take_the_images_is_one_line_with_a_size_it_can_take() -> None:
    images = learnable_set(4)
    told = r"^timm:inception_v3 cannot take images of 16×16 px \(.*\); use --set model\.input_size=299, or .*--size\)$"
    with pytest.raises(ModelError, match=told):
        require_buildable(settings("mlp", "timm:inception_v3"), images, Reporter())
    require_buildable(settings("timm:inception_v3", model={"input_size": 299}), images, Reporter())


def test_the_size_is_told_as_width_and_height() -> None:
    wide = image_set_from_arrays(np.zeros((2, 3, 16, 40), np.uint8), np.array([0, 1]))
    with pytest.raises(ModelError, match="cannot take images of 40×16 px"):
        require_buildable(settings("timm:inception_v3"), wide, Reporter())


def test_a_size_that_timm_asserts_against_is_one_line() -> None:
    config = settings("timm:test_vit", model={"input_size": 100})
    with pytest.raises(ModelError, match=r"^timm:test_vit cannot take images of 100×100 px .*model\.input_size=160"):
        require_buildable(config, learnable_set(4), Reporter())


def test_memory_that_runs_out_is_left_to_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, ...]] = []

    def full(_self: Detector, x: torch.Tensor) -> torch.Tensor:
        shown.append(tuple(x.shape))
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Detector, "forward", full)
    require_buildable(settings("mlp"), learnable_set(4), Reporter())
    assert shown == [(2, 3, 16, 16)]


def test_building_and_showing_leave_the_random_numbers_of_the_caller_alone() -> None:
    before = torch.get_rng_state()
    require_buildable(settings("mlp"), learnable_set(4), Reporter())
    assert torch.equal(torch.get_rng_state(), before)
