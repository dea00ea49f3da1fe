"""Estimate how long the trainings of a run will take, from the speeds that the probe measured."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_df.config import AdversarialConfig, PhaseConfig
from robustbench_df.data.split import Split
from robustbench_df.train.job import PHASES
from robustbench_df.train.schedule import planned_epochs, steps_per_epoch
from robustbench_df.train.side_by_side import Task


def seconds_left(tasks: Sequence[Task], splits: Sequence[Split], at_once: int) -> float | None:
    """Return the seconds that the steps of all phases not yet trained take; None if a speed is not known.

    Augmentation, validation and evaluation take additional time; early stopping shortens training.
    """
    seconds = 0.0
    for job, k in tasks:
        for name, config in zip(PHASES, (job.recipe.phase1, job.recipe.phase2), strict=True):
            if (job.folder / f"{name}.safetensors").exists():
                continue
            if not job.setting.measured:
                return None
            seconds += steps_worth(config, len(splits[k].train)) / max(job.setting.measured.values())
    return seconds / min(at_once, max(len(tasks), 1))


def steps_worth(config: PhaseConfig, images: int) -> float:
    """Return the number of forward-backward passes, counted in images, of a phase that trains on ``images``."""
    images += config.all_copies
    seen = planned_epochs(config, images) * steps_per_epoch(config, images) * config.batch_size
    return seen * (1 + _crafting(config))


def _crafting(config: PhaseConfig) -> float:
    """Return the mean number of extra forward-backward passes per image; ``free`` reuses those of training."""
    if not isinstance(config, AdversarialConfig) or config.objective == "free":
        return 0.0
    if config.objective == "trades":
        return 1.0 + config.attack_steps  # every image is attacked, and both images of a pair are trained on
    return config.ratio * (config.attack_steps if config.objective == "pgd" else 1)
