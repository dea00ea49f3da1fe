from __future__ import annotations

from itertools import pairwise

import pytest

from robustbench_df.config import AdversarialConfig, PhaseConfig
from robustbench_df.train.schedule import learning_rate, momentum, planned_epochs, steps_per_epoch


def test_the_budget_cuts_epochs_but_never_to_none() -> None:
    config = PhaseConfig(epochs=60, image_budget=1000)
    assert planned_epochs(config, 10) == 60
    assert planned_epochs(config, 100) == 10
    assert planned_epochs(config, 5000) == 1
    assert planned_epochs(PhaseConfig(epochs=0, image_budget=10), 5) == 0
    assert planned_epochs(PhaseConfig(epochs=60), 10**6) == 60


def test_a_budget_below_one_epoch_cuts_it_short() -> None:
    config = PhaseConfig(image_budget=640, batch_size=64)
    assert steps_per_epoch(config, 5000) == 10
    assert steps_per_epoch(config, 200) == 3
    assert steps_per_epoch(PhaseConfig(batch_size=64), 5000) == 78
    assert steps_per_epoch(config, 10) == 1
    assert steps_per_epoch(AdversarialConfig(objective="free", replays=3), 10) == 3  # else it never attacks


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant", "plateau"])
def test_schedules_start_low_peak_once_and_end_as_they_say(schedule: str) -> None:
    config = PhaseConfig.model_validate({"schedule": schedule, "lr": 1.0, "warmup": 0.25})
    rates = [learning_rate(config, k / 1000) for k in range(1001)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.05
    rising = rates[:250]
    assert all(b > a for a, b in pairwise(rising))
    if schedule in ("onecycle", "cosine"):
        assert rates[1000] < 1e-4
        assert all(b <= a for a, b in pairwise(rates[250:]))
    else:
        assert set(rates[250:]) == {1.0}


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate(PhaseConfig(schedule="cosine", lr=0.1, warmup=0), 0) == pytest.approx(0.1)


def test_momentum_moves_against_the_rate() -> None:
    config = PhaseConfig(schedule="onecycle", lr=1.0, warmup=0.25)
    values = [momentum(config, k / 100) for k in range(101)]
    assert values[0] == pytest.approx(0.95)
    assert min(values) == pytest.approx(values[25]) == pytest.approx(0.85)
    assert values[100] == pytest.approx(0.95)
    assert momentum(PhaseConfig(schedule="cosine"), 0.3) == 0.9
