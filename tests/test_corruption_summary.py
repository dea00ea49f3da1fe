"""Scores of corrupted cells against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from robustbench_df.corruption_summary import (
    CLEAN,
    COMMON,
    Calibrated,
    Key,
    Score,
    counted,
    detectors,
    errors,
    rows,
    score,
)
from robustbench_df.errors import DataError, UsageError
from robustbench_df.metrics.calibration import Band, BandScores, Decision, score_band
from robustbench_df.metrics.intervals import auc_interval, bootstrap, wilson


def table(margin: list[float], label: list[int]) -> pd.DataFrame:
    m = np.array(margin)
    return pd.DataFrame({"logit_real": -m / 2, "logit_fake": m / 2, "label": np.array(label, np.int8)})


def cell(right: int, n: int = 100, auc: float = 0.9, gap: float = 0.0) -> Score:
    area = replace(auc_interval(np.array([0.0, 1.0]), np.array([0, 1])), value=auc)
    return Score(wilson(right, n), area, gap)


def grid(**right: dict[str, list[int]]) -> dict[Key, Score]:
    """``model={corruption: [right at severity 1, 2 …]}``; clean has severity 0."""
    out = {}
    for model, found in right.items():
        for name, counts in found.items():
            for k, count in enumerate(counts):
                out[Key(model, "base", name, 0 if name == CLEAN else k + 1)] = cell(count)
    return out


def test_a_shifted_threshold_and_a_lost_ranking_are_told_apart() -> None:
    label = [0, 0, 0, 0, 1, 1, 1, 1]
    shifted = score(table([1, 2, 3, 4, 5, 6, 7, 8], label))  # all called fake, yet in perfect order
    assert shifted.accuracy.value == 0.5
    assert shifted.auc.value == 1
    assert shifted.threshold_gap == 0.5
    assert shifted.accuracy.low < 0.5 < shifted.accuracy.high
    assert shifted.accuracy.n == 8
    lost = score(table([-1, 1, -1, 1, -1, 1, -1, 1], label))
    assert lost.accuracy.value == 0.5
    assert lost.auc.value == 0.5
    assert lost.threshold_gap == 0


def folded(margin: list[float], label: list[int], fold: list[int]) -> pd.DataFrame:
    return table(margin, label).assign(fold=np.array(fold, np.int16))


def test_before_calibration_the_threshold_is_half() -> None:
    """Deployed margins are those before, over the temperature and less the threshold's log-odds."""
    raw, label, decision = np.array([-1.0, 0.2, 0.6, 3.0]), [0, 0, 1, 1], Decision(2.0, 0.55)
    deployed = table(list(raw / 2 - np.log(0.55 / 0.45)), label).assign(fold=-1)
    found = score(deployed, Calibrated(decision, None, 0.05))
    assert (found.accuracy.value, found.uncalibrated) == (1.0, 0.75)
    assert found.band is None
    assert np.isnan(score(deployed).uncalibrated)


def test_the_band_is_for_margins_before_calibration() -> None:
    raw, label, decision = np.array([-3.0, -0.5, 0.4, 2.0]), [0, 1, 0, 1], Decision(1.7, 0.3)
    band = Band(low=-0.2, high=0.5, alpha=0.1, n=50)
    deployed = table(list(raw / 1.7 - np.log(0.3 / 0.7)), label).assign(fold=-1)
    found = score(deployed, Calibrated(decision, band, 0.1))
    assert found.band == score_band(band, raw, np.array(label))
    assert found.band is not None
    assert found.band.coverage == 0.75


def test_out_of_fold_a_band_is_fitted_on_the_other_folds() -> None:
    """Fold 1 lies far from fold 0: a band fitted on all images would cover it, one that has not seen it does not."""
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 60)
    near, far = rng.normal(4.0 * label - 2, 0.5), rng.normal(4.0 * label + 8, 0.5)
    clean = folded([*near, *far], [*label, *label], [0] * 120 + [1] * 120)
    found = score(clean, Calibrated(Decision(), None, 0.1))
    assert found.band is not None
    assert found.band.n == 240
    assert found.band.coverage < 0.6
    same = score(clean, Calibrated(Decision(), None, 0.1), clean)
    assert same.band == found.band
    moved = clean.assign(logit_fake=clean["logit_fake"] + 100)  # all are surely fake: the reals are not covered
    shifted = score(moved, Calibrated(Decision(), None, 0.1), clean).band
    assert shifted is not None
    assert shifted.coverage == 0.5
    few = score(folded([1.0, 2.0], [0, 1], [0, 1]), Calibrated(Decision(), None, 0.1))
    assert few.band is None


def test_one_class_is_undefined_not_half() -> None:
    only = score(table([1.0, -1.0], [1, 1]))
    assert only.accuracy.value == 0.5
    assert np.isnan(only.auc.value)
    assert np.isnan(only.threshold_gap)


def test_rows_are_means_over_severities_and_come_worst_first() -> None:
    scores = grid(
        a={CLEAN: [90], "fog": [80, 60], "snow": [90, 86], "blur": [40, 40]}, b={CLEAN: [95], "fog": [50, 60]}
    )
    found = rows(scores)
    assert [(row.model, row.corruption) for row in found] == [("a", "blur"), ("b", "fog"), ("a", "fog"), ("a", "snow")]
    fog = found[2]
    assert fog.accuracy.value == pytest.approx(0.7)
    assert (fog.accuracy.low, fog.accuracy.high, fog.accuracy.n) == (wilson(70, 100).low, wilson(70, 100).high, 100)
    assert fog.lost == pytest.approx(0.2)
    assert fog.by_severity == {1: 0.8, 2: 0.6}
    assert np.isnan(fog.covered)
    assert detectors(scores) == [("a", "base"), ("b", "base")]


def test_rows_average_what_the_band_does() -> None:
    keys = [Key("a", "base", CLEAN, 0), Key("a", "base", "fog", 1), Key("a", "base", "fog", 2)]
    shares = [(0.95, 1.0), (0.9, 1.2), (0.7, 1.6)]
    scores = {
        key: replace(cell(90), uncalibrated=covered, band=BandScores(covered, size, 0.1, 0.1, 100))
        for key, (covered, size) in zip(keys, shares, strict=True)
    }
    (row,) = rows(scores)
    assert (row.covered, row.set_size, row.uncalibrated) == pytest.approx((0.8, 1.4, 0.8))


def judged(severity: int, n: int = 60, size: int = 1) -> tuple[pd.DataFrame, dict[str, str]]:
    """Predictions on the same images at every severity, worse with it, and the images' groups of some size."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(n // size) % 2, size)
    margin = np.repeat(rng.normal(size=n // size), size) + 0.2 * rng.normal(size=n) - 0.3 * severity
    ids = [f"{k}.png" for k in range(n)]
    found = table(list(np.where(label == 1, 1, -1) * (margin + 1.2)), list(label)).assign(image_id=ids, fold=-1)
    return found, {name: f"g{k // size}" for k, name in enumerate(ids)} if size > 1 else {}


@pytest.mark.parametrize("size", [1, 4])
def test_a_mean_over_severities_draws_images_or_their_groups(size: int) -> None:
    tables, groups = zip(*(judged(severity, size=size) for severity in range(4)), strict=True)
    scores = {
        Key("a", "base", "fog" if severity else CLEAN, severity): score(some, groups=groups[0])
        for severity, some in enumerate(tables)
    }
    (row,) = rows(scores)
    share = np.mean([(some["logit_fake"] >= some["logit_real"]) == (some["label"] == 1) for some in tables[1:]], axis=0)
    label, names = tables[0]["label"].to_numpy(), [groups[0].get(str(name), "") for name in tables[0]["image_id"]]
    wanted = bootstrap(lambda x, _: float(x.mean()), share, label, groups=names if size > 1 else None)
    assert (row.accuracy.value, row.accuracy.low, row.accuracy.high) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )
    assert row.accuracy.n == 60
    clean = scores[Key("a", "base", CLEAN, 0)]
    assert row.accuracy.method == ("bootstrap" if size == 1 else "cluster bootstrap")
    assert clean.accuracy.method == ("wilson" if size == 1 else "cluster bootstrap")
    assert clean.auc.method == ("delong" if size == 1 else "cluster bootstrap")
    alone = score(tables[1])
    (one,) = rows({Key("a", "base", CLEAN, 0): clean, Key("a", "base", "chain grey", 0): alone})
    assert one.accuracy == alone.accuracy


def test_whole_groups_make_an_interval_wider_than_their_images_would() -> None:
    some, groups = judged(1, n=200, size=10)
    grouped, plain = score(some, groups=groups), score(some)
    assert grouped.accuracy.value == plain.accuracy.value
    assert grouped.accuracy.high - grouped.accuracy.low > 1.5 * (plain.accuracy.high - plain.accuracy.low)
    assert grouped.auc.high - grouped.auc.low > 1.2 * (plain.auc.high - plain.auc.low)


def test_errors_against_the_reference_are_drawn_in_pairs() -> None:
    scores = {Key(m, "base", CLEAN, 0): score(judged(0)[0]) for m in "ab"}
    scores |= {Key("a", "base", "fog", k): score(judged(k)[0]) for k in (1, 2)}
    scores |= {Key("b", "base", "fog", k): score(judged(k + 1)[0]) for k in (1, 2)}
    worse, reference = errors(scores, ("a", "base"))
    assert worse.mean_error is not None
    assert worse.mce is not None
    assert worse.mean_error.low < worse.mean_error.value < worse.mean_error.high
    assert worse.mean_error.value == pytest.approx(worse.errors.mean_error)
    assert 1 < worse.mce.low < worse.mce.value < worse.mce.high  # every draw of images is harder for the worse one
    assert reference.mce is not None
    assert np.isnan(reference.mce.low)  # it is 1 by definition
    (unknown,) = errors(grid(a={CLEAN: [90], "fog": [80]}), ("a", "base"))
    assert unknown.mean_error is None


@pytest.mark.parametrize(
    ("right", "gap", "failure"), [(70, 0.16, "threshold"), (70, 0.05, "ranking"), (88, 0.02, ""), (70, np.nan, "")]
)
def test_what_fails_is_named_by_what_another_threshold_wins_back(right: int, gap: float, failure: str) -> None:
    scores = {Key("a", "base", CLEAN, 0): cell(90, gap=0.01), Key("a", "base", "blur", 1): cell(right, gap=gap)}
    assert rows(scores)[0].failure == failure


def test_mce_is_the_mean_of_the_ratios_to_the_reference() -> None:
    scores = grid(
        a={CLEAN: [90], "fog": [80, 60], "snow": [90, 70]},
        b={CLEAN: [95], "fog": [90, 80], "snow": [95, 85]},
    )
    scores[Key("a", "base", "chain jpeg:75", 0)] = cell(1)  # a chain has no severity and takes no part
    first, second = errors(scores, ("a", "base"))
    assert (first.model, second.model) == ("a", "b")
    assert first.errors.reference == "a base"
    assert first.errors.mce == pytest.approx(1)
    assert second.clean_error == pytest.approx(0.05)
    assert second.errors.mean_error == pytest.approx((0.1 + 0.2 + 0.05 + 0.15) / 4)
    assert second.errors.mce == pytest.approx((0.3 / 0.6 + 0.2 / 0.4) / 2)
    assert second.errors.relative_mce == pytest.approx((0.2 / 0.4 + 0.1 / 0.2) / 2)
    with pytest.raises(UsageError, match=r"reference 'c base' was not run.*a base, b base"):
        errors(scores, ("c", "base"))


def test_errors_under_other_severities_or_on_other_images_are_not_compared() -> None:
    scores = grid(a={CLEAN: [90], "fog": [80, 60]}, b={CLEAN: [95], "fog": [90, 80]})
    moved = {key._replace(severity=5) if key[:1] + key[2:] == ("b", "fog", 2) else key: s for key, s in scores.items()}
    with pytest.raises(DataError, match="a base was judged under fog at severity 2 on 100 images, b base was not"):
        errors(moved, ("a", "base"))
    with pytest.raises(DataError, match="b base was judged under fog at severity 1 on 50 images, a base was not"):
        errors({**scores, Key("b", "base", "fog", 1): cell(40, n=50)}, ("a", "base"))


def test_mce_is_over_the_fifteen_when_they_are_all_there() -> None:
    assert len(set(COMMON)) == 15
    keys = [Key("a", "base", name, 1) for name in ("gamma", *COMMON, "saturate")]
    assert counted(keys) == COMMON
    assert counted(keys[:-2]) == ("gamma", *COMMON[:-1])
    only_chain = {Key("a", "base", CLEAN, 0): cell(90), Key("a", "base", "chain jpeg:75", 0): cell(80)}
    assert errors(only_chain, ("a", "base")) == []
    assert rows(only_chain)[0].by_severity == {0: 0.8}


def test_it_never_imports_torch() -> None:
    code = "import sys, robustbench_df.corruption_summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
