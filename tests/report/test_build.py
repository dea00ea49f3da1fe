"""What `build_report` writes, and what it must not load."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from robustbench_df.errors import RunError
from robustbench_df.report import build
from robustbench_df.report.browser import find_browser, print_pdf
from robustbench_df.report.build import build_report, report_folder, write_report
from robustbench_df.report.document import Table, as_json
from tests.report.documents import sample


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_page_numbers_and_tables_are_written_the_same_each_time(tmp_path: Path) -> None:
    page = write_report(sample(), tmp_path / "a")
    assert page == tmp_path / "a" / "index.html"
    files = contents(tmp_path / "a")
    assert set(files) == {"index.html", "results.json", *(f"tables/{t}.csv" for t in ("scores", "names", "many"))}
    assert json.loads(files["results.json"]) == json.loads(json.dumps(as_json(sample())))
    write_report(sample(), tmp_path / "b")
    assert contents(tmp_path / "b") == files


def test_a_table_that_is_gone_leaves_no_file_but_other_files_stay(tmp_path: Path) -> None:
    write_report(sample(), tmp_path)
    (tmp_path / "tables" / "mine.csv").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    first = sample().sections[0]
    fewer = replace(first, blocks=[b for b in first.blocks if not isinstance(b, Table)], tabs=())
    write_report(replace(sample(), sections=[fewer]), tmp_path)
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"mine.csv"}
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("former", ["{", "[]", '{"sections": 3}', '{"sections": [{}]}', '"\\udce9"'])
def test_a_foreign_results_json_is_not_overwritten(tmp_path: Path, former: str) -> None:
    (tmp_path / "results.json").write_text(former)
    with pytest.raises(RunError, match=r"results\.json is not a report's; choose another --out"):
        write_report(sample(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == former


def test_a_report_is_not_written_into_a_run(finished_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*")}
    with pytest.raises(RunError, match="choose another --out"):
        build_report(finished_run, finished_run)
    (finished_run / "results.json").unlink()
    with pytest.raises(RunError, match="choose another --out"):
        write_report(sample(), finished_run)
    assert {p for p in before if p.exists()} == before.keys() - {finished_run / "results.json"}


def test_nothing_is_written_of_a_document_that_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="picture"):
        write_report(replace(sample(), pictures={}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_large_page_is_said_to_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LARGE", 10_000)
    with pytest.warns(UserWarning, match="MB"):
        write_report(sample(), tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RunError, match="--out"):
        write_report(sample(), tmp_path / "out")


def test_where_reports_go() -> None:
    assert report_folder([Path("runs/one")]) == Path("reports/one")
    assert report_folder([Path("runs/one"), Path("x/two")]) == Path("reports/compare-one-two")
    assert report_folder([Path("a"), Path("b"), Path("c")]) == Path("reports/compare-a-b-and-1-more")


def test_without_a_browser_pdf_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="needs Chromium"):
        print_pdf(tmp_path / "index.html", tmp_path / "index.pdf")


def test_a_browser_that_fails_leaves_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chromium").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RunError, match="exit 3"):
        print_pdf(tmp_path / "index.html", tmp_path / "index.pdf")
    assert not list(tmp_path.glob("*.pdf*"))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine")
def test_a_pdf_is_printed(tmp_path: Path) -> None:
    page = write_report(sample(), tmp_path)
    assert print_pdf(page, tmp_path / "index.pdf").read_bytes().startswith(b"%PDF")
