"""A run that did everything right passes; each way of leaking, planted in its files, is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.leakage import audit_run
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import RunError
from robustbench_df.records import load_predictions
from robustbench_df.run import Run
from tests.audit.runs import MODELS, spoil_json, write_run
from tests.conftest import learnable_set

NO_PAIRS = np.empty((0, 2), np.intp)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return learnable_set(240)


@pytest.fixture(params=[1, 3], ids=["one split", "three folds"])
def run(request: pytest.FixtureRequest, images: ImageSet, tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", images, request.param)


def by_id(findings: tuple[AuditFinding, ...]) -> dict[str, AuditFinding]:
    return {finding.id: finding for finding in findings}


def part_of(run: Run, part: str, fold: int = 0) -> list[str]:
    table = run.split
    own = table[(table["part"] == part) & table["fold"].isin((fold, -1))]
    return [str(name) for name in own["image_id"]]


def folder(run: Run, fold: int = 0) -> Path:
    return run.model_dir(MODELS[0], fold if run.folds > 1 else None)


def test_an_honest_run_passes_everything(run: Run, images: ImageSet) -> None:
    findings = by_id(audit_run(run, images, NO_PAIRS))
    assert {f.severity for f in findings.values()} == {"pass"}
    assert set(findings) == {"run-split", "run-near-copies", "run-copies", "run-judged", "run-selection"}
    assert findings["run-copies"].figures["copies"] == 2 * run.folds * (12 + 18)
    assert findings["run-copies"].figures["files"] == 2 * run.folds * 2
    assert findings["run-selection"].figures["fitted"] > 10


def test_a_copy_of_a_val_image_is_found(run: Run, images: ImageSet) -> None:
    victim = part_of(run, "val")[0]
    spoil_json(folder(run) / "final-copies.json", lambda copies: copies[3].update(source=victim))
    found = by_id(audit_run(run, images, NO_PAIRS))["run-copies"]
    assert found.severity == "fail"
    assert found.images == (victim,)
    assert found.figures["outside_train"] == 1


def test_a_copy_of_the_held_out_part_of_its_own_fold_is_found(images: ImageSet, tmp_path: Path) -> None:
    """In another fold the very same image may be learnt from."""
    run = write_run(tmp_path / "run", images, 3)
    held = part_of(run, "cal", 0)[0]
    label = int(images.labels[list(images.ids).index(held)])
    spoil_json(folder(run, 0) / "base-copies.json", lambda copies: copies[0].update(source=held, label=label))
    assert by_id(audit_run(run, images, NO_PAIRS))["run-copies"].images == (held,)


def test_coin_flip_labels_of_adversarial_copies_are_found(run: Run, images: ImageSet) -> None:
    def flip(copies: list[dict[str, Any]]) -> None:
        for copy in copies:
            if copy["kind"] == "adversarial":
                copy["label"] = 1 - copy["label"]

    spoil_json(folder(run) / "final-copies.json", flip)
    found = by_id(audit_run(run, images, NO_PAIRS))["run-copies"]
    assert found.severity == "fail"
    assert found.figures["wrong_label"] == 6


def test_a_missing_list_of_copies_is_no_pass(run: Run, images: ImageSet) -> None:
    (folder(run) / "base-copies.json").unlink()
    found = by_id(audit_run(run, images, NO_PAIRS))["run-copies"]
    assert found.severity == "warn"
    assert found.figures["missing_files"] == 1


def test_a_test_image_moved_into_train_is_found(run: Run, images: ImageSet, tmp_path: Path) -> None:
    part = "test" if run.folds == 1 else "cal"
    victim = part_of(run, part)[0]
    table = run.split
    extra = table[(table["image_id"] == victim) & (table["part"] == part)].assign(part="train")
    spoiled = Run(run.path)
    pd.concat([table, extra]).to_parquet(spoiled.file("split.parquet"))
    found = by_id(audit_run(spoiled, images, NO_PAIRS))
    assert found["run-split"].severity == "fail"
    assert victim in found["run-split"].images


def test_an_exact_copy_between_train_and_test_is_found(images: ImageSet, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images)
    row = {str(name): k for k, name in enumerate(images.ids)}
    a, b = row[part_of(run, "train")[0]], row[part_of(run, "test")[0]]
    hashes = images.hashes.copy()
    hashes[b] = hashes[a]
    found = by_id(audit_run(run, replace(images, hashes=hashes), NO_PAIRS))["run-split"]
    assert found.severity == "fail"
    assert found.figures["shared_pixels"] == 2
    groups = images.groups.copy()
    groups[[a, b]] = "tile"
    found = by_id(audit_run(run, replace(images, groups=groups), NO_PAIRS))["run-split"]
    assert found.figures["shared_groups"] == 2


def test_near_copies_count_only_between_train_and_what_is_judged(images: ImageSet, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images)
    row = {str(name): k for k, name in enumerate(images.ids)}
    train, test = (np.array([row[name] for name in part_of(run, part)]) for part in ("train", "test"))
    inside = np.column_stack([train[:5], train[5:10]])
    assert by_id(audit_run(run, images, inside))["run-near-copies"].severity == "pass"
    one = by_id(audit_run(run, images, np.array([[test[0], train[0]]])))["run-near-copies"]
    assert one.severity == "warn"
    assert one.images == ((images.ids[train[0]], images.ids[test[0]]),)
    many = by_id(audit_run(run, images, np.column_stack([train[:10], test[:10]])))["run-near-copies"]
    assert many.severity == "fail"
    assert many.figures["with_near_copy_in_train"] == 10
    assert by_id(audit_run(run, images, None))["run-near-copies"].severity == "not run"


def test_predictions_of_trained_on_images_are_found(run: Run, images: ImageSet) -> None:
    path = run.predictions_path(MODELS[0], "final", "clean")
    kept = load_predictions(path)
    table = kept.table.copy()
    victim = part_of(run, "train", 0)[0]
    at = table.index[table["fold"].isin((0, -1)) & (table["part"] != "test")][0]
    table.loc[at, ["image_id", "label"]] = [victim, images.labels[list(images.ids).index(victim)]]
    replace(kept, table=table).save(path)
    found = by_id(audit_run(run, images, NO_PAIRS))["run-judged"]
    assert found.severity == "fail"
    assert victim in found.images


def test_a_label_changed_in_the_predictions_is_found(run: Run, images: ImageSet) -> None:
    path = run.predictions_path(MODELS[1], "base", "clean")
    kept = load_predictions(path)
    table = kept.table.copy()
    table.loc[0, "label"] = 1 - table.loc[0, "label"]
    replace(kept, table=table).save(path)
    found = by_id(audit_run(run, images, NO_PAIRS))["run-judged"]
    assert found.severity == "fail"
    assert found.figures["images_under_another_label"] == 1


def test_a_threshold_fitted_on_test_is_found_even_if_it_says_cal(images: ImageSet, tmp_path: Path) -> None:
    from robustbench_df.ensembling import fit_decision_on
    from robustbench_df.metrics.scores import margins

    run = write_run(tmp_path / "run", images)
    table = run.predictions(MODELS[0], "final").part("test")
    cheat = fit_decision_on(replace(table, table=table.table.assign(part="cal")), margins(table.logits), "accuracy")

    def plant(ensemble: dict[str, Any]) -> None:
        ensemble["final"]["members"][MODELS[0]]["decision"] = cheat.to_dict()

    spoil_json(run.file("ensemble.json"), plant)
    found = by_id(audit_run(run, images, NO_PAIRS))["run-selection"]
    assert found.severity == "fail"
    assert found.figures["not_reproduced"] == 1
    assert f"decision of {MODELS[0]}, final" in found.detail


def test_a_shipped_choice_that_does_not_follow_is_found(run: Run, images: ImageSet) -> None:
    spoil_json(run.file("ensemble.json"), lambda ensemble: ensemble["shipped"].update(phase="base"))
    assert by_id(audit_run(run, images, NO_PAIRS))["run-selection"].severity == "fail"


def test_what_is_missing_is_not_run_and_never_a_pass(run: Run, images: ImageSet) -> None:
    run.file("ensemble.json").unlink()
    found = by_id(audit_run(run, images, NO_PAIRS))["run-selection"]
    assert found.severity == "not run"
    assert "ensemble.json" in found.detail
    run.file("ensemble.json").write_text('{"shipped": {}}')
    found = by_id(audit_run(run, images, NO_PAIRS))["run-selection"]
    assert found.severity == "not run"
    assert "damaged" in found.detail


def test_other_images_are_refused(run: Run) -> None:
    with pytest.raises(RunError, match="made with other images"):
        audit_run(run, learnable_set(240, seed=1), NO_PAIRS)
