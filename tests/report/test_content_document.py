"""What a report says: whole, half-finished, hostile and refused runs."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from robustbench_df.config import ModelConfig
from robustbench_df.errors import RunError
from robustbench_df.metrics.weights import WEIGHTINGS
from robustbench_df.models.zoo import build_detector
from robustbench_df.report.content import document_of
from robustbench_df.report.content.corruptions import corruptions_section
from robustbench_df.report.content.detectors import BUFFERS
from robustbench_df.report.content.facts import facts_of
from robustbench_df.report.content.pieces import Rows, Shelf, Shot
from robustbench_df.report.document import Alert, Block, Curves, Document, Gallery, Heat, Table, Text, as_json
from robustbench_df.run import open_run
from tests.report.edits import edit_json, edit_table
from tests.report.evaluations import CORRUPTIONS
from tests.report.runs import HOSTILE, MODELS

SECTIONS = ["detectors", "attacks", "corruptions", "looks", "data", "reproduce"]


def blocks(document: Document) -> dict[str, Block]:
    return {block.id: block for section in document.sections for block in section.blocks if block.id}


def table(document: Document, id: str) -> Table:
    found = blocks(document)[id]
    assert isinstance(found, Table)
    return found


def alert(document: Document, words: str) -> Alert:
    found = [a for a in document.alerts if words in a.title]
    assert found, [a.title for a in document.alerts]
    return found[0]


def at(heat: Heat, row: str, column: str) -> float | None:
    return heat.values[heat.rows.index(row)][heat.columns.index(column)]  # noqa: PD011


def test_the_page_has_every_section_and_every_block_an_id_of_its_own(whole: Document) -> None:
    assert [section.id for section in whole.sections] == SECTIONS
    ids = [b.id for s in whole.sections for b in s.blocks if b.id] + SECTIONS
    assert len(ids) == len(set(ids))
    for section in whole.sections:
        assert sum(count for _, count in section.tabs) <= len(section.blocks)
        assert all(count for _, count in section.tabs)
    known = {*ids, "downloads"}
    assert all(a.section in known for a in whole.alerts if a.section)
    assert len(whole.verdict) == 3


def test_the_same_files_give_the_same_document_wherever_they_lie(whole: Document, finished_run: Path) -> None:
    again = document_of(finished_run)
    assert json.dumps(as_json(whole)) == json.dumps(as_json(again))
    assert list(whole.pictures.items()) == list(again.pictures.items())
    assert str(finished_run.parent) not in json.dumps(as_json(again))


def test_alerts_are_worst_first_and_name_what_is_wrong(whole: Document) -> None:
    order = ["fail", "warn", "info"]
    places = [order.index(a.severity) for a in whole.alerts]
    assert places == sorted(places)
    assert alert(whole, "Audit: duplicates across splits").severity == "fail"
    assert alert(whole, "cells-overfitting").severity == "fail"
    assert "pgd or trades" in alert(whole, "cells-overfitting").text
    assert alert(whole, "cells-one-step").severity == "warn"
    assert alert(whole, "in the source").severity == "warn"
    assert alert(whole, "Maps that prove nothing").text.startswith("convnext_tiny")
    assert whole.verdict[2].startswith("Beware: ")
    assert whole.alerts[0].title in whole.verdict[2]


def test_what_was_not_run_is_said_with_the_command_that_runs_it(bare_run: Path) -> None:
    document = document_of(bare_run)
    commands = {
        "attacks": "rdf attack",
        "corruptions": "rdf corrupt",
        "where it looks": "rdf explain",
        "audit": "rdf audit",
    }
    for what, command in commands.items():
        found = alert(document, f"Not run: {what}" if what != "audit" else "Not run: the audit")
        assert found.severity == "info"
        assert f"{command} " in found.text
        assert "--run 'bare run'" in found.text
    assert "was not run" in document.verdict[1]
    for section in ("attacks", "corruptions", "looks"):
        own = next(s for s in document.sections if s.id == section)
        assert any(isinstance(block, Text) and "rdf " in block.text for block in own.blocks)


def test_allowed_findings_stay_marked(finished_run: Path) -> None:
    edit_json(finished_run / "provenance.json", lambda p: p.update(audit={"found": "1 fail", "allowed": ["conflicts"]}))
    found = alert(document_of(finished_run), "in spite of a failing audit")
    assert found.severity == "fail"
    assert "conflicts" in found.title


def test_what_the_split_takes_care_of_does_not_fail(finished_run: Path) -> None:
    edit_json(finished_run / "audit.json", lambda a: a.update(cured=["duplicates-across-splits"]))
    assert alert(document_of(finished_run), "Audit: duplicates across splits").severity == "info"


# --- half-finished --------------------------------------------------------------------------------


def test_a_run_that_has_only_begun_gives_a_page(bare_run: Path) -> None:
    for path in bare_run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    document = document_of(bare_run)
    assert [section.id for section in document.sections] == SECTIONS
    assert "Nothing can be shipped yet" in document.verdict[0]
    assert "rdf train-all --resume" in alert(document, "not finished").text


@pytest.mark.parametrize("which", ["bare_run", "folded_run"])
def test_a_run_killed_after_its_first_detector_gives_a_page(which: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(which)
    for name in ("attacks", "corruptions"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("DONE", "ensemble.json", "results.json", "images.parquet"):
        (run / name).unlink()
    for path in run.glob("predictions/*"):
        if not path.name.startswith("convnext_tiny-base-clean"):
            path.unlink()
    shutil.rmtree(run / "models" / "resnet_se")
    document = document_of(run)
    assert "efficientnet_b0 (base)" in alert(document, "not finished").text
    (row,) = table(document, "detectors-table").rows
    assert row["detector"] == "convnext_tiny"
    assert "So far the best is convnext_tiny" in document.verdict[1]


def test_a_run_that_lacks_a_kind_of_ensemble_or_a_decision_gives_a_page_of_the_rest(finished_run: Path) -> None:
    """An older version had fewer kinds; a file may have been cut by hand."""
    run = open_run(finished_run)
    kind = next(kind for kind in WEIGHTINGS if kind != run.shipped["kind"])
    phase = "base" if run.shipped["phase"] == "final" else "final"

    def cut(value: dict[str, Any]) -> None:
        del value[run.shipped["phase"]]["ensembles"][kind], value[phase]["members"]["resnet_se"]

    edit_json(finished_run / "ensemble.json", cut)
    document = document_of(finished_run)
    kinds = {row["kind"] for row in table(document, "ensembles-table").rows}
    assert kinds == set(WEIGHTINGS) - {kind}
    decided = {(r["detector"], r["phase"]): r["threshold"] for r in table(document, "calibration-table").rows}
    assert [pair for pair, threshold in decided.items() if threshold is None] == [("resnet_se", phase)]
    assert ("resnet_se", phase) not in {(r["detector"], r["phase"]) for r in table(document, "abstention-table").rows}


def test_a_run_of_folds_that_has_not_kept_its_groups_gives_a_page(folded_run: Path) -> None:
    (folded_run / "images.parquet").unlink()
    rows = table(document_of(folded_run), "detectors-table").rows
    assert ("ensemble", "base") in {(row["detector"], row["phase"]) for row in rows}


def test_nothing_missing_becomes_a_number(bare_run: Path) -> None:
    shutil.rmtree(bare_run / "models" / "resnet_se")
    for name in MODELS:
        for phase in ("base", "final"):
            edit_table(bare_run / "predictions" / f"{name}-{phase}-clean.parquet", notes={})
    rows = {(r["detector"], r["phase"]): r for r in table(document_of(bare_run), "detectors-table").rows}
    assert rows["resnet_se", "base"]["parameters"] is None
    assert rows["ensemble", "base"]["parameters"] is None
    assert rows["convnext_tiny", "base"]["parameters"] == 36
    assert rows["convnext_tiny", "base"]["ms"] is None


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("predictions/resnet_se-base-clean.parquet", "train-all --resume"),
        ("attacks/resnet_se-base-fgsm-linf-0.02-0123abcd.parquet", "rdf attack"),
        ("corruptions/resnet_se-base-fog-3-0123456789ab.parquet", "rdf corrupt"),
        ("results.json", "train-all --resume"),
        ("audit.json", "rdf audit"),
        ("explain/explain.json", "rdf explain"),
        ("explain/specimens.json", "rdf explain"),
    ],
)
def test_files_about_other_images_are_refused_in_one_line(finished_run: Path, file: str, remedy: str) -> None:
    path = finished_run / file
    if path.suffix == ".parquet":
        edit_table(path, fingerprint="feedfeedfeedfeed")
    else:
        edit_json(path, lambda value: value.update(fingerprint="feedfeedfeedfeed"))
    with pytest.raises(RunError, match="other images") as raised:
        document_of(finished_run)
    assert file in str(raised.value)
    assert remedy in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["results.json", "audit.json", "explain/explain.json", "config.json"])
def test_another_version_is_refused(finished_run: Path, file: str) -> None:
    edit_json(finished_run / file, lambda value: value.update(schema=99))
    with pytest.raises(RunError, match="schema 99"):
        document_of(finished_run)


@pytest.mark.parametrize(
    "file",
    [
        "results.json",
        "ensemble.json",
        "attacks/checks.json",
        "split.parquet",
        "predictions/resnet_se-base-clean.parquet",
    ],
)
def test_a_damaged_file_is_named(finished_run: Path, file: str) -> None:
    (finished_run / file).write_bytes(b'{"results": [')
    with pytest.raises(RunError, match="rdf ") as raised:
        document_of(finished_run)
    assert file in str(raised.value)


def test_a_picture_never_leads_out_of_the_run(finished_run: Path) -> None:
    def lead_away(value: dict[str, Any]) -> None:
        value["images"][0]["picture"] = "../../secret"

    edit_json(finished_run / "explain" / "explain.json", lead_away)
    with pytest.raises(RunError, match="no name of a picture"):
        document_of(finished_run)


def test_no_run_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        document_of(tmp_path)


# --- names ----------------------------------------------------------------------------------------


def test_hostile_file_names_pass_through_as_they_are(folded_run: Path) -> None:
    """Escaping is the page's business: here a name is data."""
    for path in folded_run.glob("predictions/*-clean.parquet"):
        edit_table(path, _surely_wrong)
    rows = table(document_of(folded_run), "hardest-table").rows
    assert {row["image"] for row in rows[: len(HOSTILE)]} == set(HOSTILE)
    assert all(row["wrong"] == len(MODELS) for row in rows[: len(HOSTILE)])


def _surely_wrong(rows: pd.DataFrame) -> None:
    chosen = rows["image_id"].isin(HOSTILE)
    rows.loc[chosen, "logit_fake"] = np.where(rows.loc[chosen, "label"] == 1, -50, 50).astype(np.float32)


# --- exports and pictures -------------------------------------------------------------------------


def test_the_figures_of_the_recipe_are_made_of_blocks_that_are_there(whole: Document) -> None:
    wanted = {"loss_curve", "accuracy_curve"}
    for name in (*MODELS, "ensemble"):
        kinds = ("base_evaluation", "final_evaluation", "adv_BEFORE", "adv_AFTER", "comparison", "gradcam")
        wanted |= {f"{name}_{kind}" for kind in kinds}
    assert wanted == set(whole.exports)
    known = {**blocks(whole), **{block.id: block for block in whole.exhibits}}
    for ids in whole.exports.values():
        assert ids
        assert all(id in known for id in ids)


def test_the_figure_of_a_detector_s_maps_shows_its_own_maps_alone(whole: Document) -> None:
    exhibits = {block.id: block for block in whole.exhibits}
    maps = {}
    for name in (*MODELS, "ensemble"):
        (id,) = whole.exports[f"{name}_gradcam"]
        gallery = exhibits[id]
        assert isinstance(gallery, Gallery)
        assert name in gallery.title
        assert [label for label, _ in gallery.rows] == ["right", "wrong", "attacked", "corrupted"]
        maps[name] = [row[1].key for _, row in gallery.rows if row[1] is not None]
        assert len(maps[name]) == 4
    assert len({tuple(keys) for keys in maps.values()}) == len(maps)


def test_every_picture_shown_is_there_and_none_besides(whole: Document) -> None:
    shown = {
        picture.key
        for block in (*blocks(whole).values(), *whole.exhibits)
        if isinstance(block, Gallery)
        for _, row in block.rows
        for picture in row
        if picture is not None
    }
    assert shown == set(whole.pictures)
    assert all(data.startswith(b"\x89PNG") for data in whole.pictures.values())


def test_pictures_beyond_the_page_s_share_are_left_out_of_every_gallery_alike(finished_run: Path) -> None:
    paths = sorted((finished_run / "explain" / "pictures").glob("*.png"))
    rows = [(path.name, [Shot(path, "", path.name)]) for path in paths]
    half = len(rows) // 2
    shelf = Shelf(room=4_000)
    galleries = shelf.galleries([Rows("a", "A", (), rows[:half]), Rows("b", "B", (), rows[half:])])
    shown = [len(gallery.rows) for gallery in galleries if gallery is not None]
    assert len(shown) == 2
    assert 0 < shown[0] == shown[1] < half
    assert all(gallery and "left out, to keep the page small" in gallery.note for gallery in galleries)
    assert sum(map(len, shelf.pictures.values())) <= 4_000


def test_a_large_picture_is_reduced(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    shelf = Shelf()
    assert shelf.gallery(Rows("a", "A", (), [("", [Shot(tmp_path / "large.png", "", "large")])]))
    (data,) = shelf.pictures.values()
    with Image.open(io.BytesIO(data)) as picture:
        assert max(picture.size) == 64


def test_where_there_is_no_room_every_corruption_is_still_shown_once(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(finished_run)
    room = sum(map(len, corruptions_section(facts).pictures.values())) - 1
    monkeypatch.setattr("robustbench_df.report.content.corruptions.Shelf", partial(Shelf, room=room))
    gallery = corruptions_section(facts).section.blocks[-1]
    assert isinstance(gallery, Gallery)
    assert [picture.caption for _, row in gallery.rows for picture in row if picture] == list(CORRUPTIONS)


def test_a_document_of_three_detectors_is_small(whole: Document) -> None:
    assert len(json.dumps(as_json(whole))) < 400_000


def test_curves_are_thin(whole: Document) -> None:
    curves = [block for block in blocks(whole).values() if isinstance(block, Curves)]
    assert curves
    for block in curves:
        assert block.series
        assert all(0 < len(series.x) == len(series.y) <= 200 for series in block.series)


def test_a_cell_that_was_not_run_is_a_hole_in_the_map(finished_run: Path) -> None:
    (finished_run / "corruptions" / "resnet_se-base-fog-3-0123456789ab.parquet").unlink()
    heat = blocks(document_of(finished_run))["severity-accuracy-resnet_se-base"]
    assert isinstance(heat, Heat)
    assert at(heat, "fog", "3") is None
    assert at(heat, "fog", "5") is not None


def test_fixed_kernels_and_moments_are_not_counted_as_learnt() -> None:
    with torch.device("meta"):
        detector = build_detector(ModelConfig(name="image_statistics"), (32, 32))[0]
    learnt = [tensor.numel() for name, tensor in detector.state_dict().items() if not BUFFERS.search(name)]
    assert sum(learnt) == sum(p.numel() for p in detector.parameters())
