"""`attack_run`: cells of a run, each image against a detector that has not seen it, and nothing computed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor, nn

from robustbench_df import robustness
from robustbench_df.attacks.runner import Attacked
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.summary import cumulative, robust, summarise
from robustbench_df.errors import RunError, UsageError
from robustbench_df.pipeline import train_all
from robustbench_df.robustness import AttackPlan, Cell, attack_run, thin
from robustbench_df.run import Run
from tests.conftest import learnable_set
from tests.test_pipeline import settings, write_folder

PLAN = AttackPlan(epsilons=(0.02, 0.05), images=24, attacks=(AttackSpec(name="fgsm"), AttackSpec(name="pgd", steps=3)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    folder = tmp_path_factory.mktemp("runs")
    options = ("models=['mlp']", "phase1.epochs=4")
    return {k: train_all(settings(source, *options, f"split.folds={k}"), folder / f"{k}") for k in (1, 2)}


@pytest.mark.parametrize("folds", [1, 2])
def test_every_cell_is_written_once_and_again_only_when_it_is_gone(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    cells = attack_run(run, PLAN)
    assert len(cells) == 2 * 2 * 2 * 2  # (mlp, ensemble) x (base, final) x attacks x budgets
    stamps = {cell.path: cell.path.stat().st_mtime_ns for cell in cells}
    before = cells[3].load(run)
    cells[3].path.unlink()
    attack_run(run, PLAN)
    again = {cell.path: cell.path.stat().st_mtime_ns for cell in cells}
    assert [path for path in stamps if stamps[path] != again[path]] == [cells[3].path]
    pd.testing.assert_frame_equal(cells[3].load(run).table, before.table)
    assert before.notes["seconds"] >= 0
    assert before.notes["attacks"][0]["name"] == cells[3].attack_name


def test_no_image_outlives_its_part_so_that_memory_stays_flat(
    runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    parts: list[int] = []
    real = robustness._attack

    def watched(cells: list[Cell], detector: nn.Module, x: Tensor, *rest: Any) -> list[Attacked]:
        assert all(image() is None for image in alive)
        parts.append(len(x))
        found = real(cells, detector, x, *rest)
        alive.extend(weakref.ref(images) for images in (x, *(one.x_adv for one in found)))
        return found

    monkeypatch.setattr(robustness, "LOADED", 5)
    monkeypatch.setattr(robustness, "_attack", watched)
    attack_run(runs[1], PLAN.model_copy(update={"seed": 3, "models": ("mlp",), "phases": ("base",)}))
    assert max(parts) == 5
    assert len(parts) >= 6


@pytest.mark.parametrize("folds", [1, 2])
def test_clean_logits_are_those_of_the_detector_that_had_not_seen_the_image(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    cell = attack_run(run, PLAN)[0]
    table = cell.load(run).table.set_index("image_id")
    assert set(table["part"]) == {"test" if folds == 1 else "oof"}
    assert len(table) <= 24
    known = run.predictions(cell.model, cell.phase).table.set_index("image_id").loc[table.index]
    assert (known["fold"] == table["fold"]).all()
    decision = run.decision(cell.model, cell.phase)
    odds = np.log(decision.threshold / (1 - decision.threshold))
    expected = (known["logit_fake"] - known["logit_real"]) / decision.temperature - odds
    np.testing.assert_allclose(table["clean_logit_fake"] - table["clean_logit_real"], expected, atol=1e-4)


def test_numbers_add_up(runs: dict[int, Run]) -> None:
    run = runs[1]
    cells = {(c.model, c.phase, c.attack_name, c.threat.eps): c.load(run).table for c in attack_run(run, PLAN)}
    small, large = (cells["mlp", "base", "fgsm", eps] for eps in (0.02, 0.05))
    numbers = summarise(large)
    assert numbers["accuracy"].value == pytest.approx((large["correct"] & ~large["success"]).mean())
    assert numbers["clean_accuracy"].value == pytest.approx(large["correct"].mean())
    assert numbers["accuracy"].value < numbers["clean_accuracy"].value
    assert (large["distance"] <= 0.05 + 1e-5).all()
    joined = cumulative({0.02: small, 0.05: large})
    assert (joined[0.05] <= joined[0.02]).all()
    assert (joined[0.05] <= robust(large)).all()
    fakes = large[(large["label"] == 1) & large["correct"]]
    if len(fakes):
        assert numbers["fake_to_real"].value == pytest.approx(fakes["success"].mean())


def test_eps_zero_is_the_clean_accuracy(runs: dict[int, Run]) -> None:
    cells = attack_run(runs[1], AttackPlan(epsilons=(0.0,), images=0, attacks=("quick",), models=("mlp",)))
    for cell in cells:
        table = cell.load(runs[1]).table
        assert not table["success"].any()


def test_what_is_not_there_is_named(runs: dict[int, Run], tmp_path: Path) -> None:
    run = runs[1]
    with pytest.raises(UsageError, match="did you mean 'mlp'"):
        attack_run(run, PLAN.model_copy(update={"models": ("mpl",)}))
    with pytest.raises(UsageError, match="no part 'oof'"):
        attack_run(run, PLAN.model_copy(update={"part": "oof"}))
    with pytest.raises(UsageError, match="unknown suite 'fast'"):
        attack_run(run, PLAN.model_copy(update={"attacks": ("fast",)}))
    with pytest.raises(UsageError, match="no part 'val'"):
        attack_run(runs[2], PLAN.model_copy(update={"part": "val"}))
    run.file("DONE").rename(tmp_path / "DONE")
    try:
        with pytest.raises(RunError, match="not finished"):
            attack_run(run, PLAN)
    finally:
        (tmp_path / "DONE").rename(run.file("DONE"))


def test_thinning_is_even() -> None:
    index, labels = np.arange(199), (np.arange(199) % 2).astype(np.int8)
    assert thin(index, 0, labels) is index
    few = thin(index, 100, labels)  # every second image would be of one class
    assert len(set(few.tolist())) == 100
    assert abs(int(labels[few].sum()) - 50) <= 1
    assert few.tolist() == sorted(few.tolist())
    assert len(set(thin(index, 198, labels).tolist())) == 198


def test_a_vote_is_attacked_when_asked_for_and_by_its_members_decisions(runs: dict[int, Run]) -> None:
    run = runs[1]
    plan = PLAN.model_copy(update={"models": ("vote", "vote-surrogate", "mlp"), "phases": ("base",)})
    tables = {
        (cell.model, cell.condition): cell.load(run).table.set_index("image_id") for cell in attack_run(run, plan)
    }
    assert {model for model, _ in tables} == {"vote", "vote-surrogate", "mlp"}
    for (model, condition), table in tables.items():
        alone = tables["mlp", condition].loc[table.index]
        if model == "vote":  # of one member: its verdicts, one half to either side
            fake = table["clean_logit_fake"] > table["clean_logit_real"]
            assert (fake == (alone["clean_logit_fake"] > alone["clean_logit_real"])).all()
            assert set((table["clean_logit_fake"] - table["clean_logit_real"]).abs()) == {0.5}
        assert (table["correct"] == alone["correct"]).all()
    worst = max(condition for _, condition in tables)
    assert tables["vote", worst]["success"].any()
    assert not {"vote", "vote-surrogate"} & {cell.model for cell in attack_run(run, PLAN)}


def test_kill_nine_loses_at_most_the_cell_at_work(runs: dict[int, Run], tmp_path: Path) -> None:
    whole = attack_run(runs[1], PLAN)
    killed = Run(shutil.copytree(runs[1].path, tmp_path / "killed", ignore=shutil.ignore_patterns("attacks", "lock")))
    program = (
        "import sys; from robustbench_df.robustness import AttackPlan, attack_run; from robustbench_df.run import Run; "
        "attack_run(Run(__import__('pathlib').Path(sys.argv[1])), AttackPlan.model_validate_json(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(killed.path), PLAN.model_dump_json()]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not list(killed.path.glob("attacks/*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in killed.path.glob("attacks/*.parquet")}
    assert kept
    for before, after in zip(whole, attack_run(killed, PLAN), strict=True):
        assert after.path.stat().st_mtime_ns == kept.get(after.path, after.path.stat().st_mtime_ns)
        tables = [cell.load(run).table for cell, run in ((before, runs[1]), (after, killed))]
        # A budget of FGSM that is made up for alone pays for the gradient that it had shared.
        pd.testing.assert_frame_equal(*(table.drop(columns=["forwards", "backwards"]) for table in tables))
    assert not list(killed.path.glob("attacks/.*tmp"))
