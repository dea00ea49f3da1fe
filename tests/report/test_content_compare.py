"""Several runs on one page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustbench_df.errors import UsageError
from robustbench_df.metrics.compare import mcnemar
from robustbench_df.report.content import compare_of
from robustbench_df.report.content.facts import facts_of
from robustbench_df.report.document import Estimate, Points, Text, as_json
from tests.report.edits import edit_table
from tests.report.runs import some_images, write_run
from tests.report.test_content_document import alert, blocks, table


def test_runs_about_the_same_images_are_tested_on_those_both_judged(finished_run: Path, other_run: Path) -> None:
    document = compare_of([finished_run, other_run])
    (row,) = table(document, "paired-clean").rows
    a, b = facts_of(finished_run).shipped, facts_of(other_run).shipped
    assert a is not None
    assert b is not None
    common = set(a.ids) & set(b.ids)
    assert row["n"] == len(common) > 0
    first, second = (a, b) if row["a"] == "example" else (b, a)
    right = [dict(zip(s.ids, s.right, strict=True)) for s in (first, second)]
    test = mcnemar([right[0][name] for name in sorted(common)], [right[1][name] for name in sorted(common)])  # type: ignore[arg-type]
    assert row["p"] == pytest.approx(test.p_value, rel=1e-5)
    assert table(document, "paired-attacked").rows
    seeds = [row for row in table(document, "compared-settings").rows if row["key"] == "seed"]
    assert seeds == [{"key": "seed", "example": "0", "other": "1"}]  # a default is named, not left empty


def test_the_leaderboard_is_sorted_by_what_is_left_under_attack(finished_run: Path, other_run: Path) -> None:
    phase = facts_of(other_run).shipped.phase  # type: ignore[union-attr]
    for path in other_run.glob(f"attacks/ensemble-{phase}-*.parquet"):
        edit_table(path, lambda rows: rows.__setitem__("success", rows["correct"]))
    document = compare_of([other_run, finished_run])
    rows = table(document, "leaderboard").rows
    assert [row["run"] for row in rows] == ["example", "other"]
    worst = rows[1]["attacked"]
    assert isinstance(worst, Estimate)
    assert worst.value == 0
    assert "example bears attacks best" in document.verdict[0]


def test_the_front_holds_what_nothing_beats_on_both_axes(finished_run: Path, other_run: Path) -> None:
    points = blocks(compare_of([finished_run, other_run]))["pareto-robust"]
    assert isinstance(points, Points)
    values = {n: (x.value, y.value) for n, x, y in zip(points.names, points.x, points.y, strict=True)}
    assert points.front
    for name, (x, y) in values.items():
        assert x is not None
        assert y is not None
        beaten = any(c >= x and d >= y and (c, d) != (x, y) for c, d in values.values())  # type: ignore[operator]
        assert (name in points.front) == (not beaten)


def test_runs_about_other_images_stand_side_by_side_untested(finished_run: Path, tmp_path: Path) -> None:
    foreign = write_run(tmp_path / "foreign", images=some_images(160), extras=False)
    document = compare_of([finished_run, foreign])
    assert alert(document, "same images").severity == "warn"
    assert len(table(document, "leaderboard").rows) == 2
    assert "not tested against" in document.verdict[1]  # being ahead on other images proves nothing
    own = next(s for s in document.sections if s.id == "paired")
    assert all(isinstance(block, Text) for block in own.blocks)


def test_a_run_that_ships_nothing_yet_is_left_out_and_named(finished_run: Path, other_run: Path) -> None:
    for name in ("ensemble.json", "DONE"):
        (other_run / name).unlink()
    document = compare_of([finished_run, other_run])
    assert "other" in alert(document, "is left out").title
    assert len(table(document, "leaderboard").rows) == 1


def test_two_runs_of_one_name_are_told_apart(finished_run: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(finished_run, tmp_path / "twin" / finished_run.name))
    document = compare_of([finished_run, twin])
    assert {row["run"] for row in table(document, "leaderboard").rows} == {"example", "example (2)"}
    (row,) = table(document, "paired-clean").rows
    assert row["p"] == 1
    assert json.dumps(as_json(document)) == json.dumps(as_json(compare_of([finished_run, twin])))


def test_one_run_is_no_comparison(finished_run: Path) -> None:
    with pytest.raises(UsageError, match="two or more"):
        compare_of([finished_run])
