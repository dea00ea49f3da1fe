"""From a cell's table to numbers: accuracy under attack, success by class, what it cost. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustbench_df.metrics.intervals import Interval, auc_interval, wilson


def robust(table: pd.DataFrame) -> Any:
    """bool ``[N]``: right on the clean image and not fooled."""
    return (table["correct"] & ~table["success"]).to_numpy(bool)


def cumulative(tables: Mapping[float, pd.DataFrame]) -> dict[float, Any]:
    """Robust images bool ``[N]`` per budget, where one fooled at a smaller budget counts as fooled at a larger one.

    An image moved by less lies inside the larger ball too, so this is still a fact, not an estimate. The tables must
    hold the same images in the same order and be of one norm.
    """
    standing: Any = True
    out = {}
    for eps in sorted(tables):
        standing = standing & robust(tables[eps])
        out[eps] = standing
    return out


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of one cell.

    ``accuracy`` and ``clean_accuracy`` are shares of all images, ``fake_to_real`` and ``real_to_fake`` shares of the
    images of that class that were right when clean; all with Wilson intervals. ``auc`` is of the scores after the
    attack, with DeLong's interval. ``forwards`` and ``backwards`` are means per image.
    """
    label = table["label"].to_numpy()
    correct, success = table["correct"].to_numpy(bool), table["success"].to_numpy(bool)
    margin = (table["logit_fake"] - table["logit_real"]).to_numpy(np.float64)
    n = len(table)

    def fooled(of: int) -> Interval:
        chosen = correct & (label == of)
        return wilson(int((success & chosen).sum()), int(chosen.sum()))

    finite = bool(np.isfinite(margin).all())
    return {
        "n": n,
        "clean_accuracy": wilson(int(correct.sum()), n),
        "accuracy": wilson(int((correct & ~success).sum()), n),
        "auc": auc_interval(margin, label) if finite else Interval(np.nan, np.nan, np.nan, n, "undefined"),
        "fake_to_real": fooled(1),
        "real_to_fake": fooled(0),
        "forwards": float(table["forwards"].mean()),
        "backwards": float(table["backwards"].mean()),
        "not_finite": int((table["not_finite"] > 0).sum()),
    }


def fooled_by(table: pd.DataFrame, names: Sequence[str]) -> dict[str, int]:
    """How many images each attack of a suite fooled that the former ones had left standing."""
    return {name: int((table["by"] == k).sum()) for k, name in enumerate(names)}
