"""Summarise a cell's table: accuracy under attack, success by class, cost. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_df.metrics.intervals import NAN, Groups, Interval, auc_interval, wilson
from robustbench_df.metrics.resampling import Outcomes, bootstrap_auc, real_groups, resampled_means
from robustbench_df.metrics.scores import Floats, Ints


def robust(table: pd.DataFrame) -> Any:
    """bool ``[N]``: right on the clean image and not fooled."""
    return (table["correct"] & ~table["success"]).to_numpy(bool)


def cumulative(tables: Mapping[float, pd.DataFrame]) -> dict[float, Any]:
    """Robust images bool ``[N]`` per budget, where one fooled at a smaller budget counts as fooled at a larger one.

    The adversarial image found at a smaller budget also lies inside the larger ball, so this is a fact, not an
    estimate. The tables must hold the same images in the same order and be of one norm.
    """
    standing: Any = True
    out = {}
    for eps in sorted(tables):
        standing = standing & robust(tables[eps])
        out[eps] = standing
    return out


def summarise(table: pd.DataFrame, groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the numbers of one cell.

    ``accuracy`` and ``clean_accuracy`` are shares of all images; ``fake_to_real`` and ``real_to_fake`` are shares of
    the fake and of the real images that the detector got right when clean. ``auc`` is computed from the scores after
    the attack. Intervals are Wilson's and DeLong's, or a cluster bootstrap's if there are groups. ``forwards`` and
    ``backwards`` are means per image. ``not_finite`` is the number of images with non-finite answers or gradients.

    Args:
        table: a row per image.
        groups: group of each image id, "" for none. Errors within a group are correlated, so the bootstrap resamples
            whole groups.
    """
    label = table["label"].to_numpy()
    correct, success = table["correct"].to_numpy(bool), table["success"].to_numpy(bool)
    margin = (table["logit_fake"] - table["logit_real"]).to_numpy(np.float64)
    owners = real_groups([(groups or {}).get(str(name), "") for name in table["image_id"]])
    all_of_them = np.ones(len(table), bool)

    def share(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Interval:
        return _share(hit, among, label, owners)

    return {
        "n": len(table),
        "clean_accuracy": share(correct, all_of_them),
        "accuracy": share(correct & ~success, all_of_them),
        "auc": _auc(margin, label, owners),
        "fake_to_real": share(success, correct & (label == 1)),
        "real_to_fake": share(success, correct & (label == 0)),
        "forwards": float(table["forwards"].mean()),
        "backwards": float(table["backwards"].mean()),
        "not_finite": int((table["not_finite"] > 0).sum()),
    }


def _share(hit: NDArray[np.bool_], among: NDArray[np.bool_], label: Ints, groups: Groups | None) -> Interval:
    """Return the share of the images ``among`` that were ``hit``, with its interval."""
    if groups is None or not among.any():
        return wilson(int((hit & among).sum()), int(among.sum()))
    # A ratio over resamples of all images: the resamples are drawn once for all shares of all cells on the same images.
    drawn = resampled_means(np.stack([hit & among, among], axis=1), label, groups=groups)
    own = Outcomes(hit[among].astype(np.float64), label[among], np.asarray(groups)[among])
    with np.errstate(invalid="ignore"):
        return own.interval(float(own.right.mean()), drawn[:, 0] / drawn[:, 1])


def _auc(margin: Floats, label: Ints, groups: Groups | None) -> Interval:
    if not np.isfinite(margin).all():
        return Interval(NAN, NAN, NAN, len(margin), "undefined")
    return auc_interval(margin, label) if groups is None else bootstrap_auc(margin, label, groups=groups)


def fooled_by(table: pd.DataFrame, names: Sequence[str]) -> dict[str, int]:
    """Number of images that each attack of a suite fooled and the previous ones had not."""
    return {name: int((table["by"] == k).sum()) for k, name in enumerate(names)}
