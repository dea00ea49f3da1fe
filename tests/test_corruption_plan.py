"""What `rdf corrupt` is asked for: which cells it comes to, what keeps them apart, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robustbench_df import corruption_plan
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionPlan, names_of, plan_cells
from robustbench_df.corruption_summary import COMMON
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.errors import RunError, UsageError
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from tests.conftest import learnable_set
from tests.runs import by_name, settings, write_folder

PLAN = CorruptionPlan(corruptions=("gaussian_noise", "contrast"), severities=(1, 4), images=20, batch=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    return train_all(settings(source, "models=['mlp', 'resnet_se_small']"), tmp_path_factory.mktemp("runs") / "one")


def test_a_cell_is_kept_apart_by_all_that_changes_its_numbers(run: Run) -> None:
    def path(**changed: Any) -> Path:
        return by_name(plan_cells(run, PLAN.model_copy(update=changed)))["mlp", "gaussian_noise-1"].path

    own = path()
    assert own.parent == run.file("corruptions")
    others = [path(seed=1), path(images=10), path(constants="imagenet"), path(part="val"), path(phase="final")]
    assert len({own, *others, path(precision="bf16")}) == 7
    assert (
        by_name(plan_cells(run, PLAN))["mlp", "clean"].path
        == by_name(plan_cells(run, PLAN.model_copy(update={"precision": "bf16"})))["mlp", "clean"].path
    )
    assert own == path(constants="cifar")  # what auto means at 16 px
    assert own == path(batch=3) == path(models=("mlp",)) == path(severities=(1,))
    chains = [
        cell.path
        for text in ("jpeg:75", "resize:0.7|jpeg:75", " resize : 0.70 | jpeg:75 ")
        for cell in plan_cells(run, CorruptionPlan(corruptions=(), chains=(text,), models=("mlp",)))
        if cell.damage.chain
    ]
    assert len(set(chains)) == 2


def test_a_refitted_decision_makes_another_cell(run: Run) -> None:
    """The logits of a cell are those of a detector with its decision."""
    before = {cell.path for cell in plan_cells(run, PLAN)}
    file, kept = run.file("ensemble.json"), run.file("ensemble.json").read_text()
    entry = json.loads(kept)
    entry["base"]["members"]["mlp"]["decision"]["threshold"] = 0.321
    file.write_text(json.dumps(entry))
    try:
        cells = plan_cells(run, PLAN)
    finally:
        file.write_text(kept)
    assert {cell.model for cell in cells if cell.path not in before} == {"mlp"}


def test_the_librarys_cells_are_not_taken_for_our_own() -> None:
    own, library = corruption_plan.Damage("fog", 3), corruption_plan.Damage("fog", 3, backend="imagecorruptions")
    assert (own.constants("cifar"), own.constants("imagenet")) == ("cifar", "imagenet")
    assert library.constants("cifar") == library.constants("imagenet") == "imagenet, by imagecorruptions"
    assert corruption_plan.Damage("clean").constants("cifar") is None
    assert own.made_with("imagenet") != library.made_with("imagenet")


def test_the_default_is_every_detector_after_clean_training_and_the_ensemble_as_shipped(run: Run) -> None:
    pairs = {(cell.model, cell.phase) for cell in plan_cells(run, CorruptionPlan())}
    assert pairs == {("mlp", "base"), ("resnet_se_small", "base"), ("ensemble", run.shipped["phase"])}


def test_sets_of_corruptions() -> None:
    everything, web = names_of(["all"]), names_of(["web"])
    assert everything == list(CORRUPTIONS)
    assert len(everything) >= 19 + len(web)
    assert set(names_of(["common"])) == set(COMMON) <= set(everything)
    assert not set(web) & set(COMMON)
    assert names_of(["fog", "common", "fog"])[0] == "fog"
    assert len(names_of(["fog", "common", "fog"])) == 15
    assert names_of([]) == []


def test_the_library_is_asked_for_what_it_has_and_only_where_it_can_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(names_of(["all"], "imagecorruptions")) == 19
    assert names_of(["common"], "imagecorruptions") == list(COMMON)
    for wrong in ("web", "webp"):
        with pytest.raises(UsageError, match=f"imagecorruptions has no '{wrong}'; use --backend own"):
            names_of(["fog", wrong], "imagecorruptions")
    library = PLAN.model_copy(update={"backend": "imagecorruptions"})
    with pytest.raises(UsageError, match="32 px a side or more, the run's have 16"):
        plan_cells(run, library)
    with pytest.raises(UsageError, match="constants of ImageNet-C alone"):
        plan_cells(run, library.model_copy(update={"constants": "cifar"}))
    monkeypatch.setattr(corruption_plan, "SMALLEST", 8)

    def absent() -> None:
        raise UsageError("imagecorruptions is not installed")

    monkeypatch.setattr(corruption_plan, "mended_library", absent)
    with pytest.raises(UsageError, match="not installed"):  # before a cell is computed
        plan_cells(run, library)


def test_what_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    for changed, message in (
        ({"models": ("mpl",)}, "did you mean 'mlp'"),
        ({"corruptions": ("gausian_noise",)}, "did you mean 'gaussian_noise'"),
        ({"corruptions": ("comon",)}, "did you mean 'common'"),
        ({"chains": ("resiez:0.5",)}, "resiez"),
        ({"part": "oof"}, "no part 'oof'"),
        ({"models": ("mlp", "vote")}, "not 'vote'"),
    ):
        with pytest.raises(UsageError, match=message):
            corrupt_run(run, PLAN.model_copy(update=changed))
    run.file("DONE").rename(tmp_path / "DONE")
    try:
        with pytest.raises(RunError, match="not finished"):
            corrupt_run(run, PLAN)
    finally:
        (tmp_path / "DONE").rename(run.file("DONE"))
