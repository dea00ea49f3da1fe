"""What `train_all` refuses before it has written anything, and settings that do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import robustbench_df as rdf
from robustbench_df.errors import UsageError
from robustbench_df.pipeline import train_all
from tests.conftest import Heard, learnable_set
from tests.runs import settings, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(learnable_set(200), tmp_path_factory.mktemp("images"))


def test_misspelt_models_fail_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(rdf.errors.ModelError, match="did you mean"):
        train_all(settings(source, "models=['resnet_s']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no model 'mpl'"):
        train_all(settings(source, "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run").detector("mpl")


def test_what_cannot_be_built_leaves_no_run_behind_and_idle_settings_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(rdf.errors.ModelError, match="divisible by 4"):
        train_all(settings(source, "models=['vit_base_patch16_224']", "model.input_size=30"), tmp_path / "run")
    with pytest.raises(rdf.errors.ModelError, match="inception_v3 cannot take images of 16×16 px"):
        train_all(settings(source, "models=['timm:inception_v3']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    heard = Heard()
    idle = ("model.dropout=0.9", "model.head=recipe", "phase1.epochs=1", "phase2.epochs=0", "models=['mlp']")
    train_all(settings(source, *idle), str(tmp_path / "idle"), reporter=heard)
    named = [f"mlp: model.{what} does nothing for mlp" for what in ("head=recipe", "dropout=0.9")]
    assert [w for w in heard.warnings if "does nothing" in w] == named


def test_a_weight_file_that_is_not_there_fails_before_anything_is_read(tmp_path: Path) -> None:
    absent = f"model.weights='{tmp_path / 'absent.pth'}'"
    with pytest.raises(rdf.errors.ModelError, match="no weight file"):
        train_all(settings(tmp_path / "nowhere", "models=['mlp']", absent), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refit_cannot_follow_val_and_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    plateau = settings(tmp_path / "nowhere", "refit=true", "per_model.mlp.phase2.schedule='plateau'")
    with pytest.raises(UsageError, match=r"mlp: phase2\.schedule=plateau .*leave --refit away"):
        train_all(plateau, tmp_path / "run")
