"""The bench times what it can, and says why it did not time the rest."""

from __future__ import annotations

import pytest
import torch

from robustbench_df import benching
from robustbench_df.benching import BenchPlan, bench_run
from robustbench_df.deploy import timing
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from tests.conftest import learnable_set
from tests.runs import settings, write_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(120), place / "images")
    return train_all(settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0"), place / "run")


def test_the_bench_times_what_it_can_and_says_what_it_cannot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", (1, 2))
    facts = bench_run(run, BenchPlan(models=("mlp",), batches=(1, 4), seconds=60, device="cpu", threads=1))
    ways = {row["way"] for row in facts["rows"]}
    assert {"fp32", "channels-last", "bf16", "bf16 channels-last", "compiled", "onnx fp32", "onnx int8"} == ways
    timed = [row for row in facts["rows"] if "not_run" not in row]
    assert {row["batch"] for row in timed} == {1, 4}
    for row in timed:
        assert row["median_ms"] > 0
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3)
        assert row["weights_bytes"] > 0
    assert {row["times_faster"] for row in timed if row["way"] == "fp32"} == {1.0}
    (reason,) = {row["not_run"] for row in facts["rows"] if row["way"] == "compiled"}
    assert "--compile" in reason


def test_what_does_not_fit_or_fails_reads_not_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("no such operator")

    monkeypatch.setattr(timing, "ROUNDS", (1, 2))
    monkeypatch.setattr(benching, "save_graph", refuse)
    for seconds, fp32, onnx, int8 in (
        (1e-6, "raise --seconds", "rdf export --model mlp", "rdf export --model mlp --int8"),
        (60, None, "no such operator", "could not be written"),
    ):
        facts = bench_run(run, BenchPlan(models=("mlp",), batches=(1,), seconds=seconds, device="cpu"))
        reasons = {row["way"]: row.get("not_run") for row in facts["rows"]}
        assert (reasons["fp32"] is None) == (fp32 is None)
        assert (fp32 or "") in (reasons["fp32"] or "")
        assert onnx in (reasons["onnx fp32"] or "")
        assert int8 in (reasons["onnx int8"] or "")


def test_a_misspelt_model_ends_before_anything_is_timed(run: Run) -> None:
    with pytest.raises(UsageError, match="no model 'mpl'"):
        bench_run(run, BenchPlan(models=("mlp", "mpl")))


def test_each_compilation_begins_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps eight variants of one forward and then runs it in eager: a fifth detector's times were eager's."""
    done: list[str] = []
    monkeypatch.setattr("torch.compiler.reset", lambda: done.append("reset"))
    monkeypatch.setattr("torch.compile", lambda detector, **_: done.append("compile") or detector)
    monkeypatch.setattr("shutil.which", lambda _: "g++")
    detector = torch.nn.Conv2d(3, 2, 3)
    for _ in range(2):
        benching._compiled(detector, 1, BenchPlan(compiled=True), (8, 8), torch.device("cpu"))
    assert done == ["reset", "compile"] * 2
