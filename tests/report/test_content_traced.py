"""Every number is traced to the predictions: one row changed there changes the document."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.cli.tables import summary_json
from robustbench_df.corruption_summary import Key, mean_accuracy, score
from robustbench_df.explaining import specimens
from robustbench_df.explaining.subjects import clean_answers
from robustbench_df.metrics.compare import mcnemar
from robustbench_df.records import load_predictions
from robustbench_df.report.content import document_of
from robustbench_df.report.content.detectors import parameters_of
from robustbench_df.report.content.evaluation import _from_first_alarm, thinned
from robustbench_df.report.content.facts import facts_of
from robustbench_df.report.content.families import families
from robustbench_df.report.content.reading import _NOT_SETTINGS, _USUAL
from robustbench_df.report.content.words import estimate
from robustbench_df.report.document import (
    Confusion,
    Curves,
    Document,
    Estimate,
    Gallery,
    Heat,
    Histogram,
    Series,
    Table,
    Text,
)
from robustbench_df.run import open_run
from robustbench_df.summary import find
from tests.report.edits import edit_json, edit_table
from tests.report.evaluations import CORRUPTIONS, SEVERITIES
from tests.report.runs import MODELS, write_run
from tests.report.test_content_document import alert, at, blocks, table


def value(document: Document, id: str, column: str, **where: str | float) -> float:
    (row,) = [r for r in table(document, id).rows if all(r[k] == v for k, v in where.items())]
    cell = row[column]
    number = cell.value if isinstance(cell, Estimate) else cell
    assert isinstance(number, int | float)
    return float(number)


def flip_right(part: str) -> Callable[[pd.DataFrame], None]:
    """Let the surest of the rightly judged images of a part be judged wrongly."""

    def change(rows: pd.DataFrame) -> None:
        margin = (rows["logit_fake"] - rows["logit_real"]) * (2 * rows["label"] - 1)
        row = margin[rows["part"] == part].idxmax()
        rows.loc[row, ["logit_real", "logit_fake"]] *= -1

    return change


def test_one_changed_prediction_changes_the_detector_s_numbers(finished_run: Path, whole: Document) -> None:
    before = whole
    edit_table(finished_run / "predictions" / "resnet_se-final-clean.parquet", flip_right("test"))
    after = document_of(finished_run)
    where = {"detector": "resnet_se", "phase": "final"}
    n = value(before, "detectors-table", "n", **where)
    lost = value(before, "detectors-table", "accuracy", **where) - value(after, "detectors-table", "accuracy", **where)
    assert lost == pytest.approx(1 / n, rel=1e-3)
    for column in ("auc", "f1"):
        old, new = (value(d, "detectors-table", column, **where) for d in (before, after))
        assert new < old
    for id in ("confusion-resnet_se-final", "scores-resnet_se-final", "roc-resnet_se", "roc-final"):
        assert blocks(before)[id] != blocks(after)[id], id
    assert before.verdict[0] != after.verdict[0]  # the ensemble hears it too
    untouched = {"detector": "convnext_tiny", "phase": "final"}
    assert value(before, "detectors-table", "auc", **untouched) == value(after, "detectors-table", "auc", **untouched)


def test_results_that_no_longer_fit_the_predictions_are_called_stale(finished_run: Path, whole: Document) -> None:
    assert not any("disagree" in a.title for a in whole.alerts)

    def change(value: dict[str, Any]) -> None:
        row = next(r for r in value["results"] if r["part"] == "test" and r["metric"] == "accuracy")
        row["value"] -= 0.01

    edit_json(finished_run / "results.json", change)
    found = alert(document_of(finished_run), "results.json and the predictions disagree")
    assert found.severity == "fail"
    assert "convnext_tiny base raw accuracy" in found.text


@pytest.mark.parametrize("which", ["finished_run", "folded_run"])
def test_the_numbers_are_those_of_results_json(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    document, results = document_of(path), open_run(path).results()
    part = "test" if which == "finished_run" else "oof"
    for model in (*MODELS, "ensemble"):
        for phase in ("base", "final"):
            for column, metric in (("accuracy", "accuracy"), ("auc", "auc"), ("tpr", "tpr_at_1pct_fpr"), ("f1", "f1")):
                recorded = find(results, model=model, phase=phase, condition="clean", part=part,
                                decision="calibrated", metric=metric)  # fmt: skip
                assert recorded is not None
                shown = value(document, "detectors-table", column, detector=model, phase=phase)
                assert shown == pytest.approx(recorded.value, rel=1e-5)
    kinds = {str(row["kind"]): row["accuracy"] for row in table(document, "ensembles-table").rows}
    phase = open_run(path).shipped["phase"]
    for kind, shown_accuracy in kinds.items():
        recorded = find(results, model=f"ensemble-{kind}", phase=phase, condition="clean", part=part,
                        decision="calibrated", metric="accuracy")  # fmt: skip
        assert recorded is not None
        assert isinstance(shown_accuracy, Estimate)
        assert shown_accuracy.value == pytest.approx(recorded.value, rel=1e-5)


def test_every_estimate_lies_in_its_interval_and_says_its_n(whole: Document) -> None:
    seen = 0
    for block in blocks(whole).values():
        if isinstance(block, Table):
            for row in block.rows:
                for cell in row.values():
                    if isinstance(cell, Estimate) and cell.low is not None and cell.high is not None:
                        assert cell.value is not None
                        assert cell.low - 1e-12 <= cell.value <= cell.high + 1e-12
                        assert cell.n
                        seen += 1
    assert seen > 100


def test_f1_eer_and_tpr_have_intervals(whole: Document) -> None:
    for row in table(whole, "detectors-table").rows:
        for column in ("f1", "eer", "tpr"):
            cell = row[column]
            assert isinstance(cell, Estimate)
            assert cell.low is not None


def test_one_more_fooled_image_changes_the_attack_s_numbers(finished_run: Path, whole: Document) -> None:
    phase = open_run(finished_run).shipped["phase"]
    before = whole

    def fool_one(rows: pd.DataFrame) -> None:
        standing = rows.index[rows["correct"] & ~rows["success"]]
        rows.loc[standing[0], "success"] = True

    path = finished_run / "attacks" / f"ensemble-{phase}-standard-linf-0.02-0123abcd.parquet"
    edit_table(path, fool_one)
    after = document_of(finished_run)
    where: dict[str, str | float] = {"detector": "ensemble", "phase": phase, "attack": "standard", "eps": 0.02}
    old, new = (value(d, "attacks-table", "accuracy", **where) for d in (before, after))
    assert old - new == pytest.approx(1 / 48, rel=1e-3)
    for d, share in ((before, old), (after, new)):
        assert f"{share:.1%}" in d.verdict[1]
        curve = blocks(d)[f"over-eps-ensemble-{phase}"]
        assert isinstance(curve, Curves)
        (standard,) = [series for series in curve.series if series.name == "standard"]
        assert standard.y[standard.x.index(0.02)] == pytest.approx(share)
        assert standard.x[0] == 0
        heat = blocks(d)["attack-accuracy"]
        assert isinstance(heat, Heat)
        assert at(heat, f"ensemble · {phase}", "standard 0.02") == pytest.approx(share)


def test_one_changed_verdict_changes_the_corruption_s_numbers(finished_run: Path, whole: Document) -> None:
    before = whole
    path = finished_run / "corruptions" / "resnet_se-base-fog-3-0123456789ab.parquet"
    edit_table(path, flip_right("test"))
    after = document_of(finished_run)
    shown = []
    for document in (before, after):
        heat = blocks(document)["severity-accuracy-resnet_se-base"]
        assert isinstance(heat, Heat)
        shown.append(at(heat, "fog", "3"))
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[0] - shown[1] == pytest.approx(1 / 48, rel=1e-3)
    where = {"detector": "resnet_se", "phase": "base"}
    lost = [value(d, "corruptions-table", "accuracy", corruption="fog", **where) for d in (before, after)]
    assert lost[0] - lost[1] == pytest.approx(1 / 48 / len(SEVERITIES), rel=1e-2)
    assert value(before, "mce-table", "mean", **where) < value(after, "mce-table", "mean", **where)
    assert blocks(before)["corrupted-accuracy"] != blocks(after)["corrupted-accuracy"]
    assert blocks(before)["families-table"] != blocks(after)["families-table"]


def test_the_map_holds_every_cell_once(whole: Document) -> None:
    heat = blocks(whole)["corrupted-accuracy"]
    assert isinstance(heat, Heat)
    assert set(heat.rows) == {"clean", *CORRUPTIONS}
    assert len(heat.columns) == len(MODELS) + 1
    assert all(at(heat, row, column) is not None for row in heat.rows for column in heat.columns)


def test_cells_made_with_another_threshold_are_left_out_and_named(finished_run: Path) -> None:
    def move(value: dict[str, Any]) -> None:
        value["base"]["members"]["resnet_se"]["decision"]["threshold"] = 0.97

    edit_json(finished_run / "ensemble.json", move)
    document = document_of(finished_run)
    rows = [(r["detector"], r["phase"]) for r in table(document, "attacks-table").rows]
    assert ("resnet_se", "base") not in rows
    assert ("resnet_se", "final") in rows
    assert not any(r["detector"] == "resnet_se" for r in table(document, "corruptions-table").rows)
    found = alert(document, "made with another detector or threshold")
    assert found.severity == "warn"
    assert "resnet_se-base-" in found.text


def test_of_two_cells_of_one_kind_the_larger_counts(finished_run: Path) -> None:
    path = finished_run / "attacks" / "resnet_se-base-fgsm-linf-0.02-0123abcd.parquet"
    small = path.with_name("resnet_se-base-fgsm-linf-0.02-ffffffff.parquet")
    small.write_bytes(path.read_bytes())
    edit_table(small, table=load_predictions(path).table[:10])
    document = document_of(finished_run)
    where: dict[str, str | float] = {"detector": "resnet_se", "phase": "base", "attack": "fgsm", "eps": 0.02}
    assert value(document, "attacks-table", "n", **where) == 48
    assert "ffffffff" in alert(document, "left out").text


def test_attacks_of_one_name_with_other_settings_are_two(finished_run: Path) -> None:
    path = finished_run / "attacks" / "resnet_se-base-fgsm-linf-0.02-0123abcd.parquet"
    for name, steps in (("aaaaaaaa", 1), ("bbbbbbbb", 30)):
        other = path.with_name(f"resnet_se-base-pgd-linf-0.02-{name}.parquet")
        other.write_bytes(path.read_bytes())
        spec = AttackSpec(name="pgd", eps=0.02, steps=steps, params={"x": 2}).model_dump(mode="json")
        edit_table(other, notes={"attack": "pgd", "attacks": [spec], "norm": "linf", "eps": 0.02})
    rows = [r["attack"] for r in table(document_of(finished_run), "attacks-table").rows if r["detector"] == "resnet_se"]
    assert {name for name in rows if str(name).startswith("pgd")} == {"pgd steps=1 x=2", "pgd steps=30 x=2"}
    usual = {name: field.default for name, field in AttackSpec.model_fields.items() if name not in _NOT_SETTINGS}
    assert {name: value for name, value in usual.items() if value is not None} == _USUAL


def test_corruptions_on_other_images_are_not_compared(finished_run: Path) -> None:
    """More images of one detector, asked for later: mCE would set its images against the others'."""
    for path in list((finished_run / "corruptions").glob("*.parquet")):
        few = path
        if path.name.startswith("resnet_se-base-"):
            few = path.with_name(path.name.replace("-0123", "-ffff"))
            few.write_bytes(path.read_bytes())
        edit_table(few, table=load_predictions(path).table[:30])
    facts = facts_of(finished_run)
    assert {found.accuracy.n for found in facts.scores.values()} == {30}
    assert {path.name[:15] for path in facts.superseded if path.parent.name == "corruptions"} == {"resnet_se-base-"}
    assert table(document_of(finished_run), "mce-table").rows


@pytest.mark.parametrize("grouped", [False, True])
def test_corruption_intervals_are_those_of_the_terminal(finished_run: Path, grouped: bool) -> None:
    images = pd.read_parquet(finished_run / "images.parquet")
    group = [str(k // 8) for k in range(len(images))] if grouped else [""] * len(images)
    images.assign(group=group).to_parquet(finished_run / "images.parquet")
    facts = facts_of(finished_run)
    key = Key("resnet_se", "base", "fog", 3)
    told = score(facts.damaged[key].table, groups=dict(zip(images["image_id"], group, strict=True))).accuracy
    assert facts.scores[key].accuracy == told
    assert ("bootstrap" in told.method) == grouped
    (weather,) = [family for family in families(facts, key[:2]) if family.name == "weather"]
    of_all = [[facts.scores[Key("resnet_se", "base", n, k)] for k in SEVERITIES] for n in weather.corruptions]
    assert weather.accuracy == estimate(mean_accuracy(of_all))
    right = np.mean([[cell.outcomes.right for cell in cells] for cells in of_all], axis=(0, 1))  # type: ignore[union-attr]
    assert weather.accuracy.value == pytest.approx(right.mean())
    assert mean_accuracy(of_all).method == mean_accuracy(of_all[:1]).method
    assert ("cluster" in mean_accuracy(of_all).method) == grouped


@pytest.mark.parametrize("folder", ["attacks", "corruptions"])
def test_cells_of_another_part_are_not_mixed_with_those_of_the_judged_one(finished_run: Path, folder: str) -> None:
    """A run without test, attacked on val by an earlier version and on cal now: one curve is of one part's images."""
    kept = {"attacks": "resnet_se-base-fgsm-linf-0.05", "corruptions": "resnet_se-base-fog-3"}[folder]
    for path in (finished_run / folder).glob("*.parquet"):
        part = "val" if path.name.startswith(kept) else "cal"
        edit_table(path, partial(move_to, part))
    document = document_of(finished_run)
    assert kept in alert(document, "1 cell left out").text
    if folder == "attacks":
        table_of_all = table(document, "attacks-table")
        assert table_of_all.title.endswith("(calibration images)")
        own = {(r["detector"], r["phase"], r["attack"], r["eps"]) for r in table_of_all.rows}
        assert ("resnet_se", "base", "fgsm", 0.02) in own
        assert ("resnet_se", "base", "fgsm", 0.05) not in own
    else:
        heat = blocks(document)["severity-accuracy-resnet_se-base"]
        assert isinstance(heat, Heat)
        assert [at(heat, "fog", str(k)) is None for k in SEVERITIES] == [False, True, False]
        assert "48 calibration images" in next(s for s in document.sections if s.id == folder).lead


def move_to(part: str, rows: pd.DataFrame) -> None:
    rows["part"] = part


def test_the_verdict_tests_the_ensemble_against_its_best_member(finished_run: Path, whole: Document) -> None:
    facts, document = facts_of(finished_run), whole
    assert facts.shipped is not None
    assert facts.best is not None
    test = mcnemar(facts.shipped.right, facts.best.right)
    assert f"McNemar p = {test.p_value:.2g}" in document.verdict[0]
    assert ("cannot be told apart" in document.verdict[0]) == (test.p_value >= 0.05)
    assert value(document, "paired-table", "p", detector=facts.best.model) == pytest.approx(test.p_value, rel=1e-5)


@pytest.mark.parametrize("which", ["finished_run", "folded_run"])
def test_page_and_terminal_call_the_same_member_the_best(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    phase = open_run(path).shipped["phase"]
    edit_table(path / "predictions" / f"efficientnet_b0-{phase}-clean.parquet", all_right)
    best = facts_of(path).best
    assert best is not None
    assert best.model == summary_json(open_run(path))["best_single"] == "efficientnet_b0"


def all_right(rows: pd.DataFrame) -> None:
    """Right wherever weights are chosen, wrong on test, where nothing may be."""
    sign = (2 * rows["label"] - 1) * np.where(rows["part"] == "test", -1, 1)
    rows["logit_fake"], rows["logit_real"] = sign.astype(np.float32), -sign.astype(np.float32)


def test_the_confusion_and_the_histogram_count_every_image(whole: Document) -> None:
    n = value(whole, "detectors-table", "n", detector="resnet_se", phase="base")
    confusion, scores = (blocks(whole)[f"{kind}-resnet_se-base"] for kind in ("confusion", "scores"))
    assert isinstance(confusion, Confusion)
    assert isinstance(scores, Histogram)
    assert sum(map(sum, confusion.counts)) == n
    assert sum(map(sum, scores.counts.values())) == n


def test_sources_and_classes_add_up(whole: Document) -> None:
    n = value(whole, "detectors-table", "n", detector="resnet_se", phase="base")
    assert sum(float(str(row["n"])) for row in table(whole, "sources-table").rows) == n
    assert "<b>web</b>" in {row["source"] for row in table(whole, "sources-table").rows}


def test_the_hardest_images_are_those_that_most_detectors_get_wrong(whole: Document) -> None:
    hardest = table(whole, "hardest-table")
    counts = [int(str(row["wrong"])) for row in hardest.rows]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] >= 2
    assert len(counts) <= 24


def test_out_of_fold_the_pictures_are_those_of_the_table_beside_them(folded_run: Path) -> None:
    """Both by decisions of the other folds; the shipped ones, which have seen every image, rank and say otherwise."""
    run = open_run(folded_run)
    phase = run.shipped["phase"]
    found, document = run.read_json("explain", "specimens.json"), document_of(folded_run)
    shipped = clean_answers(run, phase, "oof")
    for kind, rows in specimens.telling(shipped, 4).items():
        if kind == "examples":
            continue
        own = table(document, f"{kind}-table").rows[:4]
        entries = found[kind]
        assert [row["image"] for row in own] == [entry["image_id"] for entry in entries]
        gallery = blocks(document)[f"{kind}-images"]
        assert isinstance(gallery, Gallery)
        shown = [picture for _, pictures in gallery.rows for picture in pictures if picture is not None]
        for row, entry, picture in zip(own, entries, shown, strict=True):
            p = [float(str(row[f"p{k}"])) for k in range(len(MODELS))]
            assert p == pytest.approx([entry["p_fake"][name] for name in MODELS], abs=1e-4)
            assert row["wrong"] == sum(name in entry["wrong_by"] for name in MODELS)
            assert picture.caption == f"{row['label']}; P(fake) {min(p):.2f} to {max(p):.2f}"
            assert picture.alt.startswith(str(row["image"]))
        by_shipped = specimens.described(shipped, rows, [""] * len(rows))
        assert [entry["p_fake"] for entry in by_shipped] != [entry["p_fake"] for entry in entries]


def test_pictures_of_other_images_are_not_shown_beside_the_table(folded_run: Path) -> None:
    """Specimens of an earlier version, of another phase or part: what is not in the table has no place there."""

    def swap(value: dict[str, Any]) -> None:
        value["hardest"] = [value["hardest"][2], *value["examples"], value["hardest"][0]]
        value["disagreed"] = value["examples"][:1]

    edit_json(folded_run / "explain" / "specimens.json", swap)
    document = document_of(folded_run)
    gallery = blocks(document)["hardest-images"]
    assert isinstance(gallery, Gallery)
    shown = [picture.alt.split(" (")[0] for _, pictures in gallery.rows for picture in pictures if picture is not None]
    named = [row["image"] for row in table(document, "hardest-table").rows]
    assert [name for name in named if name in shown] == shown
    assert shown[0] == named[0]
    assert "disagreed-images" not in blocks(document)
    data = next(section for section in document.sections if section.id == "data")
    assert any(isinstance(block, Text) and "none of these images" in block.text for block in data.blocks)


def test_thinning_keeps_the_ends_and_the_corners() -> None:
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.random(5000)), np.sort(rng.random(5000))
    few, high = thinned(x, y)
    assert len(few) == len(high) == 200
    assert (few[0], few[-1]) == pytest.approx((x[0], x[-1]), abs=1e-6)
    stairs_x, stairs_y = np.array([0.0, 0, 0, 0.5, 1, 1]), np.array([0.0, 0.2, 0.7, 0.7, 0.7, 1])
    assert thinned(stairs_x, stairs_y) == ([0, 0, 1, 1], [0, 0.7, 0.7, 1])
    assert thinned(np.array([np.nan, 1.0]), np.array([0.0, 1.0])) == ([], [])


@pytest.mark.parametrize("n", [300, 299, 7])
def test_a_logarithmic_roc_keeps_the_first_false_alarm(n: int) -> None:
    x, y = thinned(np.array([0, 1 / n, 1 / n, 1]), np.array([0.2, 0.2, 0.8, 1]))
    assert (round(1 / n, 6), 0.8) in list(zip(*_points(_from_first_alarm(Series("a", x, y), 1 / n)), strict=True))


def _points(series: Series) -> tuple[list[float], list[float | None]]:
    return list(series.x), list(series.y)


def test_members_without_a_weight_are_not_counted_as_asked(finished_run: Path) -> None:
    facts = facts_of(finished_run)
    kind, phase = open_run(finished_run).shipped.values()

    def one_alone(value: dict[str, Any]) -> None:
        weights = value[phase]["ensembles"][kind]["weights"]
        for name in ("weights", "coefficients"):
            weights[name] = [1.0 if k == 0 else 0.0 for k in range(len(weights[name]))]

    whole = parameters_of(facts, "ensemble", phase)
    assert whole == sum(parameters_of(facts, name, phase) or 0 for name in facts.models)
    edit_json(finished_run / "ensemble.json", one_alone)
    alone = facts_of(finished_run)
    assert parameters_of(alone, "ensemble", phase) == parameters_of(alone, alone.models[0], phase)


def test_an_unfinished_run_shows_sources_of_one_phase(finished_run: Path) -> None:
    (finished_run / "ensemble.json").unlink()
    document = document_of(finished_run)
    shown = table(document, "sources-table")
    names = [column.key for column in shown.columns]
    assert shown.title.endswith("final")
    assert len(names) == len(set(names)) == 3 + len(MODELS)


def test_the_run_of_one_detector_ships_it_by_name(tmp_path: Path) -> None:
    document = document_of(write_run(tmp_path / "one", models=("resnet_se",), extras=False))
    assert document.verdict[0].startswith("Ship resnet_se")
    assert "paired-table" not in blocks(document)
