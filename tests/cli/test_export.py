"""``rdf export`` and ``rdf bench`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_df.cli import main
from robustbench_df.deploy import timing
from robustbench_df.pipeline import train_all
from tests.conftest import learnable_set
from tests.runs import settings, write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(120), place / "images")
    train_all(settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0"), place / "runs" / "one")
    return place


def rdf(place: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["rdf", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_int8_prints_what_it_costs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    assert rdf(place, monkeypatch, "export", "--int8", "--n", "12", "--attacked", "4") == 0
    seen = capsys.readouterr()
    assert "using the latest run, runs/one" in seen.err
    for part in ("logits differ by at most", "clean", "pgd", "McNemar", "transfer from a near copy", "ensemble-"):
        assert part in seen.out
    assert [p.suffix for p in sorted((place / "runs" / "one" / "exports").iterdir())] == [".onnx", ".json"]


def test_json_names_the_file(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", "mlp", "--format", "exported-program", "--to", "own.pt2", "--json")
    assert rdf(place, monkeypatch, "export", *arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == "own.pt2"
    assert (place / "own.pt2").stat().st_size == facts["bytes"]
    assert json.loads((place / "own.pt2.json").read_text())["decision"]["temperature"] > 0


def test_the_bench_prints_a_table_and_its_reasons(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "ROUNDS", (1, 2))
    options = ("--model", "mlp", "--batch", "1", "--seconds", "60", "--device", "cpu", "--threads", "1")
    assert rdf(place, monkeypatch, "bench", *options) == 0
    seen = capsys.readouterr().out
    for part in ("mlp", "batch 1", "×1.00", "channels-last", "not run: compiled", "1 threads"):
        assert part in seen
    assert rdf(place, monkeypatch, "bench", *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["way"] == "fp32"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("export", "--int8", "--format", "exported-program"), 2, "--int8 goes with"),
        (("export", "--model", "mpl"), 2, "did you mean 'mlp'"),
        (("export", "--run", "runs/none"), 1, "not a run folder"),
        (("bench", "--model", "mpl"), 2, "did you mean 'mlp'"),
        (("bench", "--device", "cuda:99"), 2, "none such"),
    ],
)
def test_mistakes_are_one_line(
    place: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rdf(place, monkeypatch, *arguments, "--quiet") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rdf: ")
    assert message in line
