"""How long training will take: what a phase sends through the network, at the speed of the probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_df.config import AdversarialConfig, PhaseConfig, SplitConfig, load_config
from robustbench_df.data.split import make_split
from robustbench_df.train.estimate import seconds_left, steps_worth
from robustbench_df.train.job import Job
from robustbench_df.train.speed import Setting
from tests.conftest import learnable_set


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PhaseConfig(epochs=3, batch_size=10), 300),
        (PhaseConfig(epochs=3, batch_size=10, copies=20), 360),
        (PhaseConfig(epochs=3, batch_size=10, image_budget=150), 100),  # whole epochs
        (PhaseConfig(epochs=3, batch_size=10, image_budget=50), 50),
        (AdversarialConfig(epochs=2, batch_size=10, adversarial_copies=20), 240 * 1.3),
        (AdversarialConfig(epochs=2, batch_size=10, objective="pgd", attack_steps=5, ratio=1), 200 * 6),
        (AdversarialConfig(epochs=2, batch_size=10, objective="trades", attack_steps=5), 200 * 7),
        (AdversarialConfig(epochs=2, batch_size=10, objective="free"), 200),
    ],
)
def test_a_phase_is_worth_its_images_and_the_passes_that_attack_them(config: PhaseConfig, expected: float) -> None:
    assert steps_worth(config, 100) == pytest.approx(expected)


def test_what_is_trained_already_takes_no_time_and_what_was_not_probed_is_not_guessed(tmp_path: Path) -> None:
    split = make_split(learnable_set(60), SplitConfig(near_copies=False))
    seen = 3 * (len(split.train) // 2 * 2)
    phase1 = {"epochs": 3, "batch_size": 2, "image_budget": 0}
    config = load_config("quick", per_model={}, phase1=phase1, phase2={"epochs": 0})
    recipe = config.for_model("mlp")
    probed = Setting(measured={"bf16": 5.0, "fp32": 10.0})
    jobs = [Job(name, recipe, tmp_path / name, probed) for name in ("a", "b")]
    tasks = [(job, 0) for job in jobs]
    assert seconds_left(tasks, [split], 1) == pytest.approx(2 * seen / 10)
    assert seconds_left(tasks, [split], 2) == pytest.approx(seen / 10)
    (tmp_path / "a").mkdir()
    for phase in ("base", "final"):
        (tmp_path / "a" / f"{phase}.safetensors").touch()
    assert seconds_left(tasks, [split], 1) == pytest.approx(seen / 10)
    assert seconds_left([(Job("c", recipe, tmp_path / "c", Setting()), 0)], [split], 1) is None
