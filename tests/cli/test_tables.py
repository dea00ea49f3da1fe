"""The tables say on how many images each number rests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_df.cli import tables
from robustbench_df.cli.tables import print_summary
from robustbench_df.run import open_run
from tests.report.runs import write_run


def test_the_heading_says_on_how_many_images_the_attack_was_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path / "run", extras=False)
    results = json.loads((path / "results.json").read_text())
    judged = next(row["n"] for row in results["results"] if row["part"] == "test")
    for row in results["results"]:
        if row["condition"] != "clean":
            row["n"] = 25
    (path / "results.json").write_text(json.dumps(results))
    print_summary(open_run(path))
    said = capsys.readouterr().out
    assert f"on {judged} images of the test part" in said
    assert "n=25" in said


def test_no_number_is_cut_in_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run", extras=False)
    for width in (80, 139, 140):
        monkeypatch.setattr(tables.out, "width", width)
        print_summary(open_run(path))
        said = capsys.readouterr().out
        assert "…" not in said
        assert ("tn/fp/fn/tp" in said) == (width == 140)
        assert ("they are in results.json" in said) == (width < 140)
