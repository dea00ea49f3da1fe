"""`decide`: each rule of the settings gives the threshold that it names."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_df.config import load_config
from robustbench_df.errors import UsageError
from robustbench_df.metrics.calibration import fit_decision
from robustbench_df.summary import decide


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
