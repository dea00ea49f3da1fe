"""`attack_run`: cells of a run, each image against a detector that has not seen it, and nothing computed twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor, nn

from robustbench_df import robustness
from robustbench_df.attack_plan import AttackPlan, Cell, choose_part, plan_cells
from robustbench_df.attacks.runner import Attacked
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.summary import cumulative, robust, summarise
from robustbench_df.attacks.threat import Threat
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionPlan
from robustbench_df.errors import RunError, UsageError
from robustbench_df.held_out import conditions
from robustbench_df.pipeline import train_all
from robustbench_df.report.content.facts import facts_of
from robustbench_df.robustness import attack_run
from robustbench_df.run import Run
from robustbench_df.summary import judged_part
from tests.conftest import Stages, learnable_set
from tests.runs import settings, write_folder

PLAN = AttackPlan(epsilons=(0.02, 0.05), images=24, attacks=(AttackSpec(name="fgsm"), AttackSpec(name="pgd", steps=3)))

SWEEP = AttackPlan(epsilons=(0.01, 0.02, 0.03, 0.05), images=24, attacks=(AttackSpec(name="fgsm"),))


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


def test_every_cell_is_numbered_and_told_of_each_image_once(runs: dict[int, Run]) -> None:
    stages = Stages()
    plan = AttackPlan(epsilons=(0.01, 0.02), images=24, batch=5, attacks=("quick",), models=("mlp",), seed=12)
    attack_run(runs[2], plan, stages)
    assert [title for title, *_ in stages.all] == [
        f"{k}/4 · mlp · {phase} · quick {Threat('linf', eps)}"
        for k, (phase, eps) in enumerate([(p, e) for p in ("base", "final") for e in (0.01, 0.02)], start=1)
    ]
    assert [(steps, done) for _, steps, done in stages.all] == [(24, 24)] * 4


def test_no_image_outlives_its_part_so_that_memory_stays_flat(
    runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    parts: list[int] = []
    real = robustness.attack_cell

    def watched(cell: Cell, detector: nn.Module, x: Tensor, *rest: Any) -> Attacked:
        assert all(image() is None for image in alive)
        parts.append(len(x))
        found = real(cell, detector, x, *rest)
        alive.extend(weakref.ref(images) for images in (x, found.x_adv))
        return found

    limits = {"LOADED": 5, "LOADED_PIXELS": 3 * 16 * 16}
    monkeypatch.setattr(robustness, "attack_cell", watched)
    for seed, (name, limit) in enumerate(limits.items(), 13):  # images, or pixels of them
        parts.clear()
        with monkeypatch.context() as patched:
            patched.setattr(robustness, name, limit)
            attack_run(runs[1], PLAN.model_copy(update={"seed": seed, "models": ("mlp",), "phases": ("base",)}))
        assert max(parts) == (5 if name == "LOADED" else 3)
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
        table = cell.load(runs[1]).table.set_index("image_id")
        known = runs[1].predictions(cell.model, cell.phase).table.set_index("image_id").loc[table.index]
        margin = (known["logit_fake"] - known["logit_real"]).to_numpy()
        _, verdict = runs[1].decision(cell.model, cell.phase).apply(margin)
        np.testing.assert_array_equal(table["correct"], verdict == known["label"])
        assert table["correct"].any()
        assert not table["success"].any()
        numbers = summarise(table.reset_index())
        assert numbers["accuracy"] == numbers["clean_accuracy"]


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


@pytest.mark.parametrize("cal", [0.2, 0.0])
def test_without_test_training_attacks_corruptions_maps_and_report_judge_on_the_same_part(
    tmp_path: Path, cal: float
) -> None:
    source = write_folder(learnable_set(120), tmp_path / "images")
    shares = (f"split.train={0.8 - cal}", "split.val=0.2", f"split.cal={cal}", "split.test=0")
    options = ("models=['mlp']", "phase1.epochs=1", "split.folds=1", *shares)
    run = train_all(settings(source, *options), tmp_path / "run")
    part = "cal" if cal else "val"
    assert choose_part(run, "auto") == judged_part({r.part for r in run.results()}) == part
    stepped = run.predictions("mlp", "base", conditions(run.config)[1].name).table
    small = {"models": ("mlp",), "images": 8}
    fgsm = AttackSpec(name="fgsm")
    attack = attack_run(run, AttackPlan(phases=("base",), attacks=(fgsm,), **small))
    corrupted = corrupt_run(run, CorruptionPlan(corruptions=("fog",), severities=(1,), **small))
    for table in (stepped, attack[0].load(run).table, corrupted[-1].load(run).table):
        assert set(table["part"]) == {part}
    assert subject_parts(run) == {part}
    older = attack_run(run, AttackPlan(phases=("base",), attacks=(fgsm,), part="val", **small))
    assert (older[0].path == attack[0].path) == (part == "val")  # a cell of another part is another file


def subject_parts(run: Run) -> set[str]:
    """The parts that a report reads clean numbers and attacks from."""
    facts = facts_of(run.path)
    return {subject.part for subject in facts.subjects.values()} | {row.cell.part for row in facts.attacks}


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


def test_a_sweep_costs_one_clean_pass_and_a_forward_per_budget(runs: dict[int, Run]) -> None:
    plan = SWEEP.model_copy(update={"seed": 4, "models": ("mlp",), "phases": ("base",)})
    tables = [cell.load(runs[1]).table for cell in attack_run(runs[1], plan)]
    assert sum(table["backwards"] for table in tables).tolist() == [1] * len(tables[0])
    asked = 1 + len(SWEEP.epsilons) * tables[0]["correct"]
    assert sum(table["forwards"] for table in tables).tolist() == asked.tolist()
    assert tables[0]["correct"].any()


def test_an_end_at_any_point_of_a_sweep_loses_the_cell_at_work_alone(
    runs: dict[int, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SWEEP.model_copy(update={"models": ("mlp",)})
    monkeypatch.setattr(robustness, "LOADED", 5)
    real, calls = robustness.attack_cell, Counter[Path]()
    stop = float("inf")

    def ends(cell: Cell, *rest: Any) -> Attacked:
        calls[cell.path] += 1
        if calls.total() > stop:
            raise KeyboardInterrupt
        return real(cell, *rest)

    monkeypatch.setattr(robustness, "attack_cell", ends)
    uninterrupted = copy_of(runs[2], tmp_path / "uninterrupted")
    whole = attack_run(uninterrupted, plan)
    parts, total = calls[whole[0].path], calls.total()
    assert total == parts * len(whole)
    for stop in random.sample(range(1, total), 2):
        calls.clear()
        stopped = copy_of(runs[2], tmp_path / f"{stop}")
        with pytest.raises(KeyboardInterrupt):
            attack_run(stopped, plan)
        cells = plan_cells(stopped, plan)
        assert [cell.path.exists() for cell in cells] == [k < stop // parts for k in range(len(cells))]
        assert len(list(stopped.path.glob("attacks/*"))) == stop // parts  # the shared gradients leave no file
        kept = {cell.path: cell.path.stat().st_mtime_ns for cell in cells[: stop // parts]}
        stop = float("inf")
        check_same(whole, uninterrupted, attack_run(stopped, plan), stopped, kept)


def test_kill_nine_loses_at_most_the_cell_at_work(runs: dict[int, Run], tmp_path: Path) -> None:
    whole = attack_run(runs[1], SWEEP)
    killed = copy_of(runs[1], tmp_path / "killed")
    program = """if True:
        import sys
        from pathlib import Path
        from robustbench_df.attack_plan import AttackPlan
        from robustbench_df.robustness import attack_run
        from robustbench_df.run import Run
        from robustbench_df.progress import Reporter
        class Told(Reporter):
            def start(self, title, steps, done=0, unit="images"):
                print(title, flush=True)
        attack_run(Run(Path(sys.argv[1])), AttackPlan.model_validate_json(sys.argv[2]), Told())
    """
    command = [sys.executable, "-c", program, str(killed.path), SWEEP.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = [process.stdout.readline() for _ in range(random.randint(2, len(whole) - 1))]
        time.sleep(random.uniform(0, 0.003))  # somewhere in a cell, which takes a few milliseconds
        process.send_signal(signal.SIGKILL)
        begun += process.stdout.readlines()
    kept = {path: path.stat().st_mtime_ns for path in killed.path.glob("attacks/*.parquet")}
    assert len(begun) - 1 <= len(kept) <= len(begun)
    assert kept
    assert set(kept) == {cell.path for cell in plan_cells(killed, SWEEP)[: len(kept)]}
    check_same(whole, runs[1], attack_run(killed, SWEEP), killed, kept)
    assert not list(killed.path.glob("attacks/.*tmp"))


def copy_of(run: Run, path: Path) -> Run:
    """Return the same run, not attacked yet."""
    return Run(shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("attacks", "lock")))


def check_same(whole: list[Cell], run: Run, resumed: list[Cell], other: Run, kept: dict[Path, int]) -> None:
    """Hold a resumed run's cells against those of an uninterrupted one; what was kept has not been written again."""
    for before, after in zip(whole, resumed, strict=True):
        assert after.path.stat().st_mtime_ns == kept.get(after.path, after.path.stat().st_mtime_ns)
        tables = (before.load(run).table, after.load(other).table)
        # The first budget of FGSM that is made up for pays for the gradient, which had been shared.
        pd.testing.assert_frame_equal(*(table.drop(columns=["forwards", "backwards"]) for table in tables))
