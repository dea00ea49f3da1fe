"""What is decided and refused before a run begins, by asking the hub and by showing images to detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from robustbench_df.config import RunConfig, load_config
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models import pretrained
from robustbench_df.models.detector import Detector
from robustbench_df.preflight import decide_pretrained, require_buildable, resume_config, run_to_resume
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from robustbench_df.rundir import create_run
from tests.conftest import Heard, learnable_set

TIMMS = "timm:test_resnet"


def settings(*models: str, per_model: dict[str, Any] | None = None, **model: Any) -> RunConfig:
    config = load_config("full", models=models, model={"pretrained": "never", **model})
    return config.model_copy(update={"per_model": per_model or {}})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub has been asked for; it has all of timm's."""
    asked: list[str] = []

    def fetched(name: str) -> torch.nn.Module:
        asked.append(name)
        return timm.create_model(name, pretrained=False, num_classes=2)

    monkeypatch.setattr(pretrained, "_fetched", fetched)
    monkeypatch.setattr(pretrained, "hub_reachable", lambda _patience: True)
    return asked


def decisions(config: RunConfig) -> dict[str, str]:
    return {name: config.for_model(name).model.pretrained for name in config.models}


def test_auto_is_decided_for_all_or_per_model_where_they_differ(hub: list[str]) -> None:
    asked = settings(TIMMS, pretrained="auto")
    assert decide_pretrained(asked) == settings(TIMMS, pretrained="required")
    own = {TIMMS: {"phase1": {"lr": 0.5}}}
    mixed = decide_pretrained(settings(TIMMS, "mlp", per_model=own, pretrained="auto"))
    assert decisions(mixed) == {TIMMS: "required", "mlp": "never"}
    assert mixed.model.pretrained == "never"
    assert mixed.per_model == {TIMMS: {"phase1": {"lr": 0.5}, "model": {"pretrained": "required"}}}
    assert own == {TIMMS: {"phase1": {"lr": 0.5}}}  # the caller's stays as it was
    assert hub == ["test_resnet"] * 2


@pytest.mark.usefixtures("hub")
def test_what_is_set_for_one_model_is_decided_for_it_alone() -> None:
    own = {"twin": {"model": {"name": "resnet18", "pretrained": "auto"}}}
    assert decisions(decide_pretrained(settings(TIMMS, "twin", per_model=own))) == {TIMMS: "never", "twin": "required"}
    own["twin"]["model"]["pretrained"] = "never"
    config = decide_pretrained(settings(TIMMS, "twin", per_model=own, pretrained="auto"))
    assert decisions(config) == {TIMMS: "required", "twin": "never"}


def test_a_hub_that_is_away_decides_for_never_and_nothing_else_asks_it(
    hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(TIMMS, "resnet18", pretrained="auto")
    monkeypatch.setattr(pretrained, "hub_reachable", lambda _patience: False)
    with pytest.warns(UserWarning, match="no pretrained weights") as told:
        assert decide_pretrained(asked) == settings(TIMMS, "resnet18")
    assert len({str(warning.message) for warning in told}) == 1
    assert decide_pretrained(settings(TIMMS)) == settings(TIMMS)
    assert decide_pretrained(settings(TIMMS, pretrained="required")) == settings(TIMMS, pretrained="required")
    # A file's weights are no pretrained ones.
    assert decisions(decide_pretrained(settings(TIMMS, weights="mine.pth", pretrained="auto"))) == {TIMMS: "never"}
    assert hub == []


@pytest.mark.usefixtures("hub")
def test_a_run_decided_from_auto_is_resumed_by_auto_and_by_what_it_keeps(tmp_path: Path) -> None:
    asked = settings(TIMMS, "mlp", pretrained="auto")
    run = Run(create_run(decide_pretrained(asked), tmp_path / "run").path)
    assert decisions(run.config) == {TIMMS: "required", "mlp": "never"}
    for config in (asked, run.config):
        assert run_to_resume(config, run.path).path == run.path
    for values in ({}, {"model": {"pretrained": "auto"}}):
        assert resume_config(run, values) == run.config
    with pytest.raises(UsageError, match=r"begun with model\.pretrained=never, not required"):
        resume_config(run, {"model": {"pretrained": "required"}})
    with pytest.raises(UsageError, match=r"begun with settings per model that are missing now"):
        run_to_resume(settings(TIMMS, "mlp"), run.path)
    with pytest.raises(UsageError, match=r"begun with model\.dropout=0\.2, not 0\.5"):
        run_to_resume(settings(TIMMS, "mlp", pretrained="auto", dropout=0.5), run.path)


def test_a_run_that_kept_auto_is_resumed_as_it_was_begun(tmp_path: Path) -> None:
    """As runs before this was decided first."""
    asked = settings(TIMMS, "mlp", pretrained="auto")
    run = Run(create_run(asked, tmp_path / "run").path)
    assert run_to_resume(asked, run.path).config == asked
    assert resume_config(run, {"model": {"pretrained": "auto"}}) == asked


def test_weights_under_a_preset_made_for_none_are_told_of(hub: list[str]) -> None:
    for preset, told in (("full", True), ("pretrained", False)):
        for policy in ("required", "never"):
            heard = Heard()
            config = load_config(preset, models=["timm:test_resnet", "mlp"], model={"pretrained": "never"})
            own = {"timm:test_resnet": {"model": {"pretrained": policy}}}
            config = config.model_copy(update={"per_model": own})
            require_buildable(config, learnable_set(4), heard)
            warned = [line for line in heard.warnings if line.startswith("timm:test_resnet from pretrained weights")]
            assert bool(warned) == (told and policy == "required"), (preset, policy)
            quiet = Heard()
            slower = config.phase1.model_copy(update={"lr": 1e-4})
            require_buildable(config.model_copy(update={"phase1": slower}), learnable_set(4), quiet)
            assert quiet.warnings == []
    assert hub


def test_a_network_that_cannot_take_the_images_is_one_line_with_a_size_it_can_take() -> None:
    images = learnable_set(4)
    told = r"^timm:inception_v3 cannot take images of 16×16 px \(.*\); use --set model\.input_size=299, or .*--size\)$"
    with pytest.raises(ModelError, match=told):
        require_buildable(settings("timm:inception_v3"), images, Reporter())
    require_buildable(settings("timm:inception_v3", input_size=299), images, Reporter())
    with pytest.raises(ModelError, match=r"--set per_model\.timm:inception_v3\.model\.input_size=299"):
        require_buildable(settings("mlp", "timm:inception_v3"), images, Reporter())


def test_the_size_is_told_as_width_and_height() -> None:
    wide = image_set_from_arrays(np.zeros((2, 3, 16, 40), np.uint8), np.array([0, 1]))
    with pytest.raises(ModelError, match="cannot take images of 40×16 px"):
        require_buildable(settings("timm:inception_v3"), wide, Reporter())


def test_a_size_that_timm_asserts_against_is_one_line() -> None:
    config = settings("timm:test_vit", input_size=100)
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
