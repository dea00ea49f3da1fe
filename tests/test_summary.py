"""`decide`: each rule of the settings gives the threshold that it names."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_df.config import load_config
from robustbench_df.errors import UsageError
from robustbench_df.metrics.calibration import Decision, fit_decision
from robustbench_df.summary import JUDGED_PARTS, decide, judge, judged_part, measure


def scored(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.3).astype(np.int8)
    return rng.normal(3.0 * labels - 1, 1.5), labels


def test_a_rate_of_false_alarms_is_kept_and_every_fake_it_allows_is_found() -> None:
    margin, labels = scored()
    decision = decide(margin, labels, "fpr:0.02", "cal")
    _, fake = decision.apply(margin)
    alarms = fake[labels == 0].mean()
    assert 0.015 <= alarms <= 0.02
    plain = decide(margin, labels, "accuracy", "cal")
    assert decision.threshold > plain.threshold
    assert (decision.fitted_on, decision.n) == ("cal", 400)
    assert plain == fit_decision(margin, labels, rule="accuracy")


def test_half_fits_the_temperature_alone_and_one_class_nothing() -> None:
    margin, labels = scored()
    half = decide(margin * 3, labels, "half", "cal")
    assert (half.threshold, half.temperature > 1.5) == (0.5, True)
    only = decide(margin[labels == 0], labels[labels == 0], "fpr:0.02", "cal")
    assert (only.temperature, only.threshold, only.fitted_on) == (1.0, 0.5, "none")


def test_the_settings_know_the_rules() -> None:
    for rule in ("youden", "half", "fpr:0.01", "fpr:.05"):
        assert load_config("quick", overrides=[f"ensemble.threshold={rule}"]).ensemble.threshold == rule
    for wrong in ("fpr", "fpr:1", "fpr:1.5", "f1"):
        with pytest.raises(UsageError, match=r"ensemble\.threshold"):
            load_config("quick", overrides=[f"ensemble.threshold={wrong}"])


def test_what_was_fitted_on_least_is_judged_on() -> None:
    there = {"train", "val", "oof", "cal", "test", "test-deduplicated"}
    order = []
    while there & set(JUDGED_PARTS):
        order.append(judged_part(there))
        there.remove(order[-1])
    assert order == ["test", "oof", "cal", "val"]


def test_images_of_a_group_count_as_one() -> None:
    """Nine copies of each image say no more than one: the interval of the group must not shrink to a third."""
    margin, labels = scored(200)
    copied, owners = np.repeat(margin, 9), np.repeat(np.arange(200), 9).astype(str)
    once = measure(judge(margin, Decision()), labels)
    alone = measure(judge(copied, Decision()), np.repeat(labels, 9))
    grouped = measure(judge(copied, Decision()), np.repeat(labels, 9), owners)
    nobody = measure(judge(copied, Decision()), np.repeat(labels, 9), np.full(1800, ""))
    for metric in ("accuracy", "auc"):
        widths = [float(found[metric][2] - found[metric][1]) for found in (once, alone, grouped)]
        assert once[metric][0] == pytest.approx(grouped[metric][0])
        assert widths[1] == pytest.approx(widths[0] / 3, rel=0.15)
        assert widths[2] == pytest.approx(widths[0], rel=0.15)
        assert nobody[metric] == alone[metric]
