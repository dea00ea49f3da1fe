"""No figure and no number of a page is written by hand: one row changed in each file of a run changes every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.records import load_predictions
from robustbench_df.report.content import document_of
from robustbench_df.report.document import Cell, Curves, Document, Estimate, Heat, Table
from tests.report.edits import edit_json, edit_table
from tests.report.test_content_document import blocks

PICTURES = {"examples", "corruption-examples"}
"""Galleries that hold no number, of images: not looked at here."""

COUNTED = {"n", "eps"}
"""Columns of what was asked for: how many images, and which budgets."""


@pytest.fixture(scope="module")
def changed(_written: Path, tmp_path_factory: pytest.TempPathFactory) -> Document:
    """The report of the same run after one row was changed in each of its files."""
    run = Path(shutil.copytree(_written, tmp_path_factory.mktemp("changed") / "example"))
    for k, path in enumerate(sorted(run.glob("predictions/*.parquet"))):
        _turn(path, k // 2 % 2)  # every second one is of attacked images
    for k, path in enumerate(sorted(run.glob("corruptions/*.parquet"))):
        _turn(path, k % 2)
    for k, path in enumerate(sorted(run.glob("attacks/*.parquet"))):
        _fool(path, k)
    _edit_training(run)
    _edit_what_follows(run)
    return document_of(run)


def _turn(path: Path, label: int) -> None:
    """Let the surest of the rightly judged images of a class be judged wrongly, and slowly."""
    predictions = load_predictions(path)
    rows = predictions.table
    margin = (rows["logit_fake"] - rows["logit_real"]) * (2 * rows["label"] - 1)
    row = margin[(rows["part"] == "test") & (rows["label"] == label)].idxmax()
    rows.loc[row, ["logit_real", "logit_fake"]] *= -1
    seconds = predictions.notes.get("seconds")
    longer = {part: 2 * value for part, value in seconds.items()} if isinstance(seconds, dict) else 0.5
    edit_table(path, table=rows, notes={**predictions.notes, "seconds": longer})


def _fool(path: Path, k: int) -> None:
    """Let one image more be fooled, by another attack of the suite, or one be wrong from the beginning."""
    predictions = load_predictions(path)
    rows = predictions.table
    standing = rows["correct"] & ~rows["success"] & (rows["label"] == k // 2 % 2)
    row = rows.index[standing if standing.any() else rows["correct"]][0]
    rows.loc[row, "success" if k % 3 else "correct"] = bool(k % 3)
    rows.loc[row, ["by", "not_finite", "forwards"]] = [k // 3 % 3, 1, 500]
    rows.loc[row, ["logit_real", "logit_fake"]] *= -3
    edit_table(path, table=rows, notes={**predictions.notes, "seconds": 9.5})


def _edit_training(run: Path) -> None:
    """Another epoch, network, decision, split and record."""
    for history in run.glob("models/*/*-history.jsonl"):
        first, *rest = history.read_text(encoding="utf-8").splitlines()
        row = {k: v * 0.9 if isinstance(v, float) else v for k, v in json.loads(first).items()}
        history.write_text("\n".join([json.dumps(row), *rest]), encoding="utf-8")
    from safetensors.numpy import save_file

    for path in run.glob("models/*/*.safetensors"):
        save_file({"net.weight": np.zeros((5, 8), np.float32)}, path)
    edit_json(run / "ensemble.json", _other_decisions)
    split = pd.read_parquet(run / "split.parquet")
    of = dict(pd.read_parquet(run / "images.parquet")[["image_id", "label"]].itertuples(index=False))
    kept = split.drop([split.index[(split["part"] == "train") & (split["image_id"].map(of) == k)][0] for k in (0, 1)])
    kept.to_parquet(run / "split.parquet")
    edit_json(run / "provenance.json", lambda v: v["durations"].update(evaluate=99.5))
    edit_json(run / "provenance.json", lambda v: v["hardware"].update(processor="Another CPU"))
    edit_json(run / "config.json", lambda v: v["config"]["phase1"].update(lr=0.123))
    edit_json(run / "speed.json", lambda v: v["resnet_se"].update(threads=7))


def _other_decisions(value: dict[str, Any]) -> None:
    """Too little to make the cells stale, enough to be seen."""
    for phase in value:
        if phase in ("base", "final"):
            for entry in (*value[phase]["members"].values(), *value[phase]["ensembles"].values()):
                entry["decision"]["temperature"] *= 1 + 1e-5
                entry["decision"]["threshold"] += 1e-5
                entry["band"]["low"] -= 2
            for entry in value[phase]["ensembles"].values():
                weights = entry["weights"]["weights"]
                weights[:] = [weights[0] + 2e-5, weights[1] - 1e-5, weights[2] - 1e-5]
                entry["cross_fitted_log_loss"] = 0.5


def _edit_what_follows(run: Path) -> None:
    """Other checks, transfer, audit, findings, maps and specimens."""
    edit_json(run / "attacks" / "checks.json", lambda v: v["resnet_se · final"][0].update(detail="other"))
    edit_json(run / "attacks" / "transfer.json", lambda v: v["accuracy"]["resnet_se"].update(ensemble=0.25))
    edit_json(run / "audit.json", lambda v: v["findings"][0].update(detail="other"))
    edit_json(run / "findings.json", lambda v: v["findings"][0].update(detail="other"))

    def maps(value: dict[str, Any]) -> None:
        for image in value["images"]:
            image["maps"][0]["p_fake"] = 0.125
        value["detectors"][0]["sanity"]["correlation"] = 0.7
        value["detectors"][0]["faithfulness"].update(value=0.12)

    def specimens(value: dict[str, Any]) -> None:
        for entry in value["attacked"]:
            entry["p_fake"] = 0.125
        value["hardest"].pop()  # its numbers are the table's, of images that the changed rows are not among

    edit_json(run / "explain" / "explain.json", maps)
    edit_json(run / "explain" / "specimens.json", specimens)


def test_every_table_figure_and_gallery_has_changed(whole: Document, changed: Document) -> None:
    before, after = blocks(whole), blocks(changed)
    assert list(before) == list(after)
    same = {id for id in before if before[id] == after[id]}
    assert same == PICTURES | {"downloads"}


def test_every_column_of_numbers_has_changed(whole: Document, changed: Document) -> None:
    before, after = blocks(whole), blocks(changed)
    same = []
    for id, table in before.items():
        other = after[id]
        if isinstance(table, Table) and isinstance(other, Table):
            for column in table.columns:
                old, new = ([_number(row.get(column.key)) for row in one.rows] for one in (table, other))
                if column.key not in COUNTED and old == new and any(number is not None for number in old):
                    same.append(f"{id}: {column.key}")
    assert not same, same


def test_every_line_and_every_map_has_changed(whole: Document, changed: Document) -> None:
    for before, after in _pairs(whole, changed):
        if isinstance(before, Curves) and isinstance(after, Curves):
            for old, new in zip(before.series, after.series, strict=True):
                if before.id.startswith("roc"):  # a real moves it sideways, a fake up or down
                    assert (old.x, old.y) != (new.x, new.y), (before.id, old.name)
                else:
                    assert old.y != new.y, (before.id, old.name)
                    # One end alone may stay: where groups are drawn, it is one of the few values that draws can have.
                    assert not len(old.low) or (old.low, old.high) != (new.low, new.high), (before.id, old.name)
        if isinstance(before, Heat) and isinstance(after, Heat) and before.id != "transfer":
            lines = zip(before.rows, before.values, after.values, strict=True)
            assert [name for name, old, new in lines if old == new] == [], before.id


def test_every_sentence_of_the_verdict_has_changed(whole: Document, changed: Document) -> None:
    assert all(old != new for old, new in zip(whole.verdict[:2], changed.verdict[:2], strict=True))


def _pairs(whole: Document, changed: Document) -> Iterator[tuple[Any, Any]]:
    before, after = blocks(whole), blocks(changed)
    return ((before[id], after[id]) for id in before)


def _number(cell: Cell) -> float | None:
    value = cell.value if isinstance(cell, Estimate) else cell
    return None if value is None or isinstance(value, str) else float(value)
