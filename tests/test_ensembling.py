"""What is shipped is chosen on val, and fitted numbers are judged on images the fit has not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robustbench_df.config import EnsembleConfig
from robustbench_df.ensembling import DEDUPLICATED, Votes, _ship, fit_decision_on, judge_table
from robustbench_df.metrics.scores import margins
from robustbench_df.metrics.weights import WEIGHTINGS
from robustbench_df.records import Predictions
from robustbench_df.summary import find


def predictions(part: str | list[str], seed: int, n: int = 200, strength: float = 1.0, folds: int = 1) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    margin = rng.normal(0, 1, n) + strength * (2 * labels - 1)
    table = pd.DataFrame(
        {
            "model": f"m{seed}",
            "phase": "final",
            "condition": "clean",
            "image_id": [f"{k}.png" for k in range(n)],
            "label": labels.astype(np.int8),
            "part": part,
            "fold": (np.arange(n) // 2 % folds if folds > 1 else np.full(n, -1)).astype(np.int16),
            "logit_real": -margin / 2,
            "logit_fake": margin / 2,
        }
    )
    return Predictions(table, "print")


GROUPS = {f"{k}.png": "" for k in range(400)}


def test_weights_are_fitted_on_val_alone() -> None:
    parts = ["val"] * 100 + ["test"] * 100
    first, second = predictions(parts, 0), predictions(parts, 1, strength=0.2)
    weights, _ = Votes({"a": first, "b": second}, GROUPS).weigh("accuracy")
    flipped = first.table.copy()
    test = flipped["part"] == "test"
    flipped.loc[test, "logit_fake"] *= -1  # whatever test says, the weights stay
    again, _ = Votes({"a": Predictions(flipped, "print"), "b": second}, GROUPS).weigh("accuracy")
    assert weights == again
    assert weights.weights[0] > weights.weights[1]


def test_decisions_are_fitted_on_cal_alone() -> None:
    parts = ["val"] * 50 + ["cal"] * 100 + ["test"] * 50
    table = predictions(parts, 0)
    decision = fit_decision_on(table, margins(table.logits) + 1.5, "accuracy")
    assert (decision.fitted_on, decision.n) == ("cal", 100)
    assert decision.threshold > 0.6  # the shift of 1.5 is undone
    changed = table.table.copy()
    changed.loc[changed["part"] != "cal", "label"] ^= 1
    assert fit_decision_on(Predictions(changed, ""), margins(table.logits) + 1.5, "accuracy") == decision


def test_out_of_fold_numbers_do_not_see_their_own_labels() -> None:
    """Pure noise: a threshold fitted and judged on the same images beats 50%; the cross-fitted one must not."""
    shares = []
    for seed in range(30):
        table = predictions("oof", seed, n=100, strength=0.0, folds=5)
        margin = margins(table.logits)
        decision = fit_decision_on(table, margin, "accuracy")
        rows = judge_table(table, margin, decision, "accuracy", model="m", phase="final", condition="clean")
        honest = find(rows, metric="accuracy", decision="calibrated")
        assert honest is not None
        _, verdict = decision.apply(margin)
        shares.append((honest.value, float((verdict == table.labels).mean())))
    honest_mean, naive_mean = np.mean(shares, axis=0)
    assert naive_mean > 0.53
    assert abs(honest_mean - 0.5) < 0.025


def test_test_is_scored_without_its_twins_beside_the_official_number() -> None:
    table = predictions(["val"] * 100 + ["test"] * 100, 0)
    margin = margins(table.logits)
    decision = fit_decision_on(table, margin, "accuracy")
    twins = [f"{k}.png" for k in range(90, 140)]  # ten of them are no test images
    names = {"model": "m", "phase": "final", "condition": "clean"}
    rows = judge_table(table, margin, decision, "accuracy", **names, twins=twins)
    official, without = (
        find(rows, part=part, metric="accuracy", decision="calibrated") for part in ("test", DEDUPLICATED)
    )
    assert official is not None
    assert without is not None
    assert (official.n, without.n) == (100, 60)
    _, verdict = decision.apply(margin)
    assert without.value == (verdict == table.labels)[140:].mean()
    assert find(rows, part="val-deduplicated") is None
    plain = judge_table(table, margin, decision, "accuracy", **names, twins=["0.png"])
    assert find(plain, part=DEDUPLICATED) is None


def test_auto_ships_the_lowest_loss_and_a_fixed_choice_is_kept() -> None:
    losses = {("base", "uniform"): 0.3, ("base", "stacked"): 0.2, ("final", "uniform"): 0.25, ("final", "stacked"): 0.4}
    assert _ship(losses, EnsembleConfig(weights="auto", phase="auto")) == ("base", "stacked")
    assert _ship(losses, EnsembleConfig(weights="auto", phase="final")) == ("final", "uniform")
    assert _ship(losses, EnsembleConfig(weights="stacked", phase="final")) == ("final", "stacked")


def test_a_choice_without_an_error_is_never_worse_than_one_with_some() -> None:
    """However unsure the first is and sure the second: calibration corrects that."""
    labels = np.arange(400) % 2
    unsure, sure = 0.2 * (2 * labels - 1.0), 20.0 * (2 * labels - 1.0)
    sure[:4] *= -1
    losses = []
    for margin in (unsure, sure):
        table = predictions("val", 0, n=400)
        table.table["logit_real"], table.table["logit_fake"] = -margin / 2, margin / 2
        losses.append(Votes({"a": table}, GROUPS).loss("uniform"))
    assert losses[0] < losses[1]


def test_where_nothing_can_be_cross_fitted_no_kind_wins_by_having_seen_the_labels() -> None:
    first, second = predictions("val", 0, n=40, strength=0.1), predictions("val", 1, n=40, strength=0.1)
    for table in (first, second):
        table.table["label"] = np.int8([1] + [0] * 39)
    votes = Votes({"a": first, "b": second}, GROUPS)
    losses = {kind: votes.loss(kind) for kind in WEIGHTINGS}
    assert losses["stacked"] == losses["uniform"]
    choices = {("base", kind): loss for kind, loss in losses.items()}
    assert _ship(choices, EnsembleConfig(weights="auto", phase="auto"))[1] != "stacked"


def test_an_undefined_metric_is_undefined(recwarn: pytest.WarningsRecorder) -> None:
    table = predictions("test", 0)
    one_class = Predictions(table.table[table.table["label"] == 1].reset_index(drop=True), "")
    margin = margins(one_class.logits)
    rows = judge_table(one_class, margin, fit_decision_on(one_class, margin, "accuracy"), "accuracy",
                       model="m", phase="final", condition="clean")  # fmt: skip
    area = find(rows, metric="auc", decision="raw")
    assert area is not None
    assert np.isnan(area.value)
    assert not recwarn.list
