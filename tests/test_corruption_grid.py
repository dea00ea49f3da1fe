"""`corrupt_run`: each batch corrupted once for all detectors, each cell written once, a killed grid goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from robustbench_df import corruption_grid, corruption_plan
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionPlan, plan_cells
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.chain import apply_chain, parse_chain
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.pipeline import train_all
from robustbench_df.robustness import deployed
from robustbench_df.run import Run
from tests.conftest import Heard, learnable_set
from tests.runs import by_name, settings, write_folder

PLAN = CorruptionPlan(corruptions=("gaussian_noise", "contrast"), severities=(1, 4), images=20, batch=8)
DAMAGES = 1 + 2 * 2
"""Clean, and two corruptions at two severities."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    folder = tmp_path_factory.mktemp("runs")
    models = {1: "['mlp', 'resnet_se_small']", 2: "['mlp']"}
    return {k: train_all(settings(source, f"models={models[k]}", f"split.folds={k}"), folder / f"{k}") for k in models}


@pytest.fixture
def fresh(runs: dict[int, Run]) -> Run:
    """The run of one fold, without cells."""
    for path in runs[1].path.glob("corruptions/*"):
        path.unlink()
    return runs[1]


def counting(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[tuple[str, int, int]]:
    """Record each corruption as (name, severity, images); the call of that number is interrupted."""
    calls: list[tuple[str, int, int]] = []

    def counted(x: Tensor, name: str, severity: int, **options: Any) -> Tensor:
        calls.append((name, severity, len(x)))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return corrupt(x, name, severity, **options)

    monkeypatch.setattr(corruption_plan, "corrupt", counted)
    return calls


@pytest.mark.parametrize("folds", [1, 2])
def test_every_cell_is_written_once_and_again_only_when_it_is_gone(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    cells = corrupt_run(run, PLAN)
    assert len({cell.path for cell in cells}) == len(cells) == (len(run.models) + 1) * DAMAGES
    stamps = {cell.path: cell.path.stat().st_mtime_ns for cell in cells}
    victim = cells[7]
    before = victim.load(run)
    victim.path.unlink()
    corrupt_run(run, PLAN)
    again = {cell.path: cell.path.stat().st_mtime_ns for cell in cells}
    assert [path for path in stamps if stamps[path] != again[path]] == [victim.path]
    pd.testing.assert_frame_equal(victim.load(run).table, before.table)


@pytest.mark.parametrize("folds", [1, 2])
def test_clean_logits_are_those_of_the_detector_that_had_not_seen_the_image(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    cell = by_name(corrupt_run(run, PLAN))["mlp", "clean"]
    table = cell.load(run).table.set_index("image_id")
    assert set(table["part"]) == {"test" if folds == 1 else "oof"}
    assert set(table["fold"]) == ({-1} if folds == 1 else {0, 1})
    known = run.predictions("mlp", "base").table.set_index("image_id").loc[table.index]
    decision = run.decision("mlp", "base")
    odds = np.log(decision.threshold / (1 - decision.threshold))
    expected = (known["logit_fake"] - known["logit_real"]) / decision.temperature - odds
    np.testing.assert_allclose(table["logit_fake"] - table["logit_real"], expected, atol=1e-4)


@pytest.mark.parametrize("phase", ["base", "final"])
def test_the_ensemble_answers_as_it_does_alone(fresh: Run, phase: str) -> None:
    """Also where its members' answers are shared: on the same corrupted 8-bit pixels, as deployed."""
    images = fresh.images()
    cells = by_name(corrupt_run(fresh, PLAN.model_copy(update={"phase": phase, "chains": ("resize:0.5|jpeg:60",)})))
    noisy = cells["ensemble", "gaussian_noise-4"].load(fresh).table
    pixels = torch.from_numpy(images.pixels(list(noisy["image_id"])))
    keys = torch.from_numpy(images.keys([list(images.ids).index(i) for i in noisy["image_id"]]))
    damaged = {
        "gaussian_noise-4": corrupt(pixels, "gaussian_noise", 4, ids=keys, seed=0),
        "chain resize:0.5|jpeg:60": apply_chain(pixels, parse_chain("resize:0.5|jpeg:60"), ids=keys, seed=0),
    }
    assert not torch.equal(damaged["gaussian_noise-4"], pixels)
    for condition, x in damaged.items():
        for name in ("mlp", "resnet_se_small", "ensemble"):
            with torch.no_grad():
                alone = deployed(fresh, name, phase, None)(x.float() / 255).numpy()
            table = cells[name, condition].load(fresh).table
            assert (table["image_id"] == noisy["image_id"]).all()
            np.testing.assert_allclose(table[["logit_real", "logit_fake"]], alone, atol=1e-4)


def test_a_batch_is_corrupted_once_for_all_detectors(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch)
    corrupt_run(fresh, PLAN)
    n = len(by_name(plan_cells(fresh, PLAN))["mlp", "clean"].load(fresh).table)
    batches = -(-n // 8)
    assert len(calls) == (DAMAGES - 1) * batches
    assert sum(count for *_, count in calls) == (DAMAGES - 1) * n


def test_a_long_grid_says_after_its_first_corruption_how_long_the_others_take(
    fresh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr(corruption_grid, "LONG", 0)
    corrupt_run(fresh, PLAN, heard)
    (said,) = [k for k, line in enumerate(heard.lines) if "like the first" in line]
    assert heard.lines[said].startswith(f"{DAMAGES - 2} like the first are left: about ")
    assert len([line for line in heard.lines[said:] if "detectors" in line]) == 1  # the second corruption's severities


def test_the_ensemble_does_not_ask_its_members_twice(fresh: Run) -> None:
    pairs = [("mlp", "base"), ("resnet_se_small", "base"), ("ensemble", "base")]
    (team,) = corruption_grid._teams(fresh, pairs, fresh.images(), PLAN)
    asked: list[str] = []
    for name, phase in pairs[:2]:
        inner: Any = team.detectors[name, phase]
        inner.net.net.register_forward_hook(lambda *_, name=name: asked.append(name))
    for _ in range(2):
        x = torch.rand(2, 3, 16, 16)
        for pair in pairs:
            team.detectors[pair](x)
    assert asked == ["mlp", "resnet_se_small"] * 2


def test_a_killed_grid_goes_on_where_it_stopped(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        counting(patched, fail_at=6)
        with pytest.raises(KeyboardInterrupt):
            corrupt_run(fresh, PLAN)
    there = {path: path.stat().st_mtime_ns for path in fresh.path.glob("corruptions/*")}
    assert 0 < len(there) < 3 * DAMAGES
    assert len(there) % 3 == 0  # a damage is written for all detectors or none
    assert all(path.suffix == ".parquet" for path in there)
    calls = counting(monkeypatch)
    cells = corrupt_run(fresh, PLAN)
    assert all(cell.path.exists() for cell in cells)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())
    done = {cell.damage for cell in cells if cell.path in there}
    assert not {(name, severity) for name, severity, _ in calls} & {(d.name, d.severity) for d in done}


DIES_WRITING = """
import os, signal, sys
from pathlib import Path
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionPlan
from robustbench_df.run import open_run

moved, replace = [], Path.replace

def counted(self, target):
    moved.extend([target] * (target.suffix == ".parquet"))
    if len(moved) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = counted
corrupt_run(open_run(sys.argv[1]), CorruptionPlan.model_validate_json(sys.argv[2]))
"""


def test_kill_9_between_two_cells_of_a_damage_costs_no_finished_cell(fresh: Run) -> None:
    """The fifth cell is on disk but not yet in its place when the process dies, with the run's lock in its hand."""
    command = [sys.executable, "-c", DIES_WRITING, str(fresh.path), PLAN.model_dump_json()]
    died = subprocess.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    there = {path: path.stat().st_mtime_ns for path in fresh.path.glob("corruptions/*.parquet")}
    assert len(there) == 4
    assert len(list(fresh.path.glob("corruptions/.*.tmp"))) == 1
    cells = corrupt_run(fresh, PLAN)
    assert {cell.path for cell in cells if cell.path.exists()} == {cell.path for cell in cells}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())
    interrupted = {cell.path: cell.load(fresh).table for cell in cells}
    for path in interrupted:
        path.unlink()
    for cell in corrupt_run(fresh, PLAN):
        pd.testing.assert_frame_equal(cell.load(fresh).table, interrupted[cell.path], check_exact=False, atol=1e-4)


def test_numbers_do_not_depend_on_the_batch(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {key: cell.load(fresh).table for key, cell in by_name(corrupt_run(fresh, PLAN)).items()}
    for path in fresh.path.glob("corruptions/*"):
        path.unlink()

    refused: list[int] = []

    def scarce(x: Tensor, name: str, severity: int, **options: Any) -> Tensor:
        if len(x) > 5:
            refused.append(len(x))
            raise RuntimeError("CUDA out of memory")
        return corrupt(x, name, severity, **options)

    monkeypatch.setattr(corruption_plan, "corrupt", scarce)
    again = by_name(corrupt_run(fresh, PLAN.model_copy(update={"batch": 16})))
    assert refused[:2] == [16, 8]
    for key, cell in again.items():
        table = cell.load(fresh).table
        assert (table["image_id"] == tables[key]["image_id"]).all()
        np.testing.assert_allclose(table["logit_fake"], tables[key]["logit_fake"], atol=1e-4)


def test_bf16_moves_margins_a_little_says_so_and_leaves_clean_images_to_fp32(fresh: Run) -> None:
    exact = by_name(corrupt_run(fresh, PLAN))
    fast = by_name(corrupt_run(fresh, PLAN.model_copy(update={"precision": "bf16"})))
    own = {key[1]: cell for key, cell in exact.items() if key[0] == "resnet_se_small"}
    other = {key[1]: cell for key, cell in fast.items() if key[0] == "resnet_se_small"}
    assert own.pop("clean").path == other.pop("clean").path
    assert {cell.load(fresh).notes["precision"] for cell in own.values()} == {"fp32"}
    assert {cell.load(fresh).notes["precision"] for cell in other.values()} == {"bf16"}
    margins = [np.concatenate([np.diff(part[key].load(fresh).logits)[:, 0] for key in own]) for part in (own, other)]
    assert 0 < np.abs(margins[1] - margins[0]).max() < 0.1 * np.abs(margins[0]).max() + 0.1


def test_notes_say_how_a_cell_was_made(runs: dict[int, Run]) -> None:
    cells = by_name(corrupt_run(runs[1], PLAN))
    notes = cells["mlp", "gaussian_noise-4"].load(runs[1]).notes
    assert (notes["corruption"], notes["severity"], notes["constants"]) == ("gaussian_noise", 4, "cifar")
    assert notes["made_with"] == list(CORRUPTIONS["gaussian_noise"].settings["cifar"][3])
    assert notes["seconds"] > 0
    assert notes["corrupting_seconds"] > 0
