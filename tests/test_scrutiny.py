"""What stands beside the numbers: cell checks, transfer, saved examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_df import scrutiny
from robustbench_df.attack_plan import AttackPlan
from robustbench_df.attacks.checks import Check
from robustbench_df.attacks.runner import Attacked
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import Threat
from robustbench_df.errors import RunError
from robustbench_df.pipeline import train_all
from robustbench_df.progress import Reporter
from robustbench_df.robustness import attack_run
from robustbench_df.run import Run
from tests.conftest import Stages, learnable_set
from tests.runs import settings, write_folder

PLAN = AttackPlan(
    epsilons=(0.02, 0.05),
    images=32,
    attacks=(AttackSpec(name="fgsm"), AttackSpec(name="pgd", steps=3)),
    phases=("base",),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    config = settings(source, "models=['mlp']", "phase1.epochs=6", "phase1.lr=3e-3")
    return train_all(config, tmp_path_factory.mktemp("runs") / "one")


def test_cells_are_compared_and_the_shipped_ensemble_is_checked(run: Run) -> None:
    cells = attack_run(run, PLAN)
    found = scrutiny.examine(run, cells, PLAN, "shipped", Reporter())
    assert set(found) == {"mlp · base", "ensemble · base"}
    seen = [(check["id"], check["about"]) for check in found["mlp · base"]]
    assert seen[:2] == [("cells-one-step", f"pgd, {Threat('linf', eps)}") for eps in PLAN.epsilons]
    assert seen[2:4] == [("cells-monotone", "fgsm, linf"), ("cells-monotone", "pgd, linf")]
    assert sum(len(checks) for checks in found.values()) > 15  # the deep ones of one detector among them
    assert json.loads(run.file("attacks", "checks.json").read_text()) == json.loads(json.dumps(found))
    assert scrutiny.examine(run, cells, PLAN, "none", Reporter()) == {}


def test_a_checked_ensemble_meets_images_crafted_on_its_members(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Attacked]] = []
    monkeypatch.setattr(scrutiny, "run_checks", lambda *_, found, **__: seen.append(found) or [])
    plan = PLAN.model_copy(update={"models": ("ensemble",)})
    scrutiny.examine(run, attack_run(run, plan), plan, "all", Reporter())
    run.file("attacks", "checks.json").unlink()
    assert [set(found) for found in seen] == [{"transfer:mlp"}]
    crafted = seen[0]["transfer:mlp"]
    assert 0 < crafted.success.sum() <= crafted.correct.sum()
    assert crafted.distance.max() <= max(PLAN.epsilons) + 1e-5


def test_checks_of_several_calls_add_up_and_the_newest_counts(run: Run) -> None:
    path = run.file("attacks", "checks.json")
    path.unlink(missing_ok=True)
    plan = PLAN.model_copy(update={"models": ("mlp",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrutiny, "run_checks", lambda *_, **__: [Check("eval-mode", "fail", "as if", {})])
        scrutiny.examine(run, attack_run(run, plan), plan, "all", Reporter())
        patch.setattr(scrutiny, "run_checks", lambda *_, **__: [Check("eval-mode", "pass", "again", {})])
        more = plan.model_copy(update={"epsilons": (0.01, 0.05)})
        scrutiny.examine(run, attack_run(run, more), more, "all", Reporter())
        kept = json.loads(path.read_text())["mlp · base"]
        path.write_text("{")
        with pytest.raises(RunError, match="damaged"):
            scrutiny.examine(run, attack_run(run, plan), plan, "all", Reporter())
    path.unlink()
    assert [check["detail"] for check in kept if check["id"] == "eval-mode"] == ["again"]
    subjects = [check["about"] for check in kept if check["id"] == "cells-one-step"]
    assert subjects == [f"pgd, {Threat('linf', eps)}" for eps in (0.02, 0.05, 0.01)]


def test_a_run_checked_by_a_former_version_does_not_contradict_itself(run: Run) -> None:
    path = run.file("attacks", "checks.json")
    plan = PLAN.model_copy(update={"models": ("mlp",)})
    former = ("one step against many", f"pgd, {Threat('linf', 0.05)}"), ("pgd: monotone in eps", "linf")
    wrong = {"status": "fail", "detail": "as it was", "figures": {}, "remedy": ""}
    path.write_text(json.dumps({"mlp · base": [{"id": id, "about": about, **wrong} for id, about in former]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrutiny, "run_checks", lambda *_, **__: [])
        found = scrutiny.examine(run, attack_run(run, plan), plan, "all", Reporter())
    kept = json.loads(path.read_text())["mlp · base"]
    path.unlink()
    assert sorted(kept, key=str) == sorted(found["mlp · base"], key=str)


def test_phase_two_is_held_against_phase_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLAN.model_copy(update={"phases": ("base", "final"), "models": ("mlp",)})
    cells = attack_run(run, plan)
    tables = {cell.path: cell.load(run) for cell in cells}
    for cell in cells:  # as if phase 2 had learnt to withstand the one step, and nothing else
        tables[cell.path].table["correct"] = True
        tables[cell.path].table["success"] = (cell.phase, cell.attack_name) != ("final", "fgsm")
    monkeypatch.setattr(type(cells[0]), "load", lambda cell, _run: tables[cell.path])
    monkeypatch.setattr(scrutiny, "run_checks", lambda *_, **__: [])
    found = scrutiny.examine(run, cells, plan, "all", Reporter())
    run.file("attacks", "checks.json").unlink()
    caught = {name: [c["id"] for c in checks if c["status"] == "fail"] for name, checks in found.items()}
    assert caught == {"mlp · base": [], "mlp · final": ["cells-overfitting"] * 2}


def test_the_transfer_matrix_has_every_pair_and_its_clean_row(run: Run) -> None:
    stages = Stages()
    matrix = scrutiny.transfer_of(run, PLAN, stages)
    assert stages.all == [("transfer", 2 * matrix["n"], 2 * matrix["n"])]
    assert set(matrix["accuracy"]) == {"(clean)", "mlp", "ensemble"}
    for row in matrix["accuracy"].values():
        assert set(row) == {"mlp", "ensemble"}
    assert matrix["accuracy"]["mlp"]["mlp"] <= matrix["accuracy"]["(clean)"]["mlp"]
    assert run.file("attacks", "transfer.json").exists()


def test_examples_are_saved_rounded_and_scored_again(run: Run) -> None:
    cells = attack_run(run, PLAN)
    written = scrutiny.save_examples(run, cells, PLAN, 3, Reporter())
    facts = json.loads((written[0].parent / "examples.json").read_text())
    assert len(written) == 3 * facts["fooled"]
    assert 0 < facts["fooled"] <= 3
    assert 0 <= facts["fooled_after_rounding"] <= facts["fooled"]
    triples = {path.name.rsplit("-", 1)[0] for path in written}
    for stem in triples:
        clean, adversarial = (
            np.asarray(Image.open(Path(written[0].parent) / f"{stem}-{kind}.png"), dtype=int)
            for kind in ("clean", "adversarial")
        )
        moved = np.abs(clean - adversarial).max()
        assert 0 < moved <= round(0.05 * 255) + 1
