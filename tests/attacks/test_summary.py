"""A cell's numbers: Wilson's intervals where every image stands for itself, whole groups drawn where some do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.attacks.summary import summarise
from robustbench_df.metrics.intervals import auc_interval, wilson

SHARES = ("clean_accuracy", "accuracy", "fake_to_real", "real_to_fake")


def cell(owners: int = 20, each: int = 10) -> pd.DataFrame:
    """Images of which those of one owner fare alike: a quarter is wrong when clean, a half of the rest is fooled."""
    owner = np.arange(owners * each) // each
    label, correct = owner % 2, owner % 4 != 3
    success = correct & (owner % 8 < 4)
    margin = np.where((label == 1) == (correct & ~success), 1.0, -1.0) + np.linspace(0, 0.5, len(owner))
    return pd.DataFrame(
        {
            "image_id": [f"{k}.png" for k in range(len(owner))],
            "label": label,
            "correct": correct,
            "success": success,
            "logit_real": -margin / 2,
            "logit_fake": margin / 2,
            "forwards": 2,
            "backwards": 1,
            "not_finite": 0,
        }
    )


def owners_of(table: pd.DataFrame, each: int = 10) -> dict[str, str]:
    return {name: f"owner {k // each}" for k, name in enumerate(table["image_id"])}


@pytest.mark.parametrize("groups", [None, {}, "none of them"])
def test_without_groups_intervals_are_wilsons_and_delongs(groups: Any) -> None:
    table = cell()
    groups = dict.fromkeys(table["image_id"], "") if groups else groups
    found = summarise(table, groups)
    robust = table["correct"] & ~table["success"]
    assert found["accuracy"] == wilson(int(robust.sum()), len(table))
    assert found["clean_accuracy"] == wilson(int(table["correct"].sum()), len(table))
    fakes = table[table["correct"] & (table["label"] == 1)]
    assert found["fake_to_real"] == wilson(int(fakes["success"].sum()), len(fakes))
    margin = (table["logit_fake"] - table["logit_real"]).to_numpy()
    assert found["auc"] == auc_interval(margin, table["label"].to_numpy())


def test_images_of_one_owner_are_drawn_together() -> None:
    table = cell()
    alone, together = summarise(table), summarise(table, owners_of(table))
    for name in (*SHARES, "auc"):
        one, other = alone[name], together[name]
        assert other.method == "cluster bootstrap", name
        assert other.value == pytest.approx(one.value)
        assert other.n == one.n
        assert other.high - other.low > 1.5 * (one.high - one.low)  # 20 owners say less than 200 images
    robust = (table["correct"] & ~table["success"]).to_numpy()
    means = robust.reshape(20, 10).mean(1)
    spread = np.std([np.random.default_rng(k).choice(means, 20).mean() for k in range(2000)])
    assert together["accuracy"].high - together["accuracy"].low == pytest.approx(4 * spread, rel=0.4)


def test_where_all_fare_alike_there_are_as_many_trials_as_owners() -> None:
    table = cell().assign(correct=True, success=True)
    found = summarise(table, owners_of(table))
    assert found["accuracy"].value == 0
    assert found["accuracy"].high == pytest.approx(wilson(0, 20).high)
    assert found["fake_to_real"].low == pytest.approx(wilson(10, 10).low)


def test_what_is_not_there_is_undefined() -> None:
    table = cell().assign(correct=False, success=False)
    table.loc[0, "logit_fake"] = np.nan
    for groups in (None, owners_of(table)):
        found = summarise(table, groups)
        assert np.isnan(found["fake_to_real"].value)
        assert np.isnan(found["auc"].value)
        assert found["accuracy"].value == 0
