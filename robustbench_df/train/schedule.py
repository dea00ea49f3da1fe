"""Length and learning rate of a phase: pure functions of the settings, so a resumed phase needs no saved scheduler."""

from __future__ import annotations

import math

from robustbench_df.config import PhaseConfig

ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-5
"""First and last learning rate as shares of the peak (torch's OneCycleLR starts at 1/25; Smith & Topin 2018)."""


BETA1_FLAT, BETA1_AT_PEAK = 0.95, 0.85
"""AdamW's β₁ under ``onecycle``: lowest where the learning rate is highest (OneCycleLR's ``cycle_momentum``)."""


def planned_epochs(config: PhaseConfig, images: int) -> int:
    """Epochs of a phase over ``images`` training images: ``epochs``, reduced to fit ``image_budget`` if one is set."""
    if not config.image_budget or not config.epochs:
        return config.epochs
    return max(min(config.epochs, config.image_budget // max(images, 1)), 1)


def steps_per_epoch(config: PhaseConfig, images: int) -> int:
    """Optimiser steps of an epoch: whole batches only, and at least all steps on one batch.

    An ``image_budget`` below ``images`` shortens the epoch.
    """
    seen = min(images, config.image_budget) if config.image_budget else images
    return max(seen // config.batch_size, config.steps_per_batch)


def learning_rate(config: PhaseConfig, progress: float) -> float:
    """Learning rate at ``progress`` in [0, 1] of the phase.

    ``onecycle``: half a cosine up from 1/25 of the peak during ``warmup``, half a cosine down to (nearly) zero;
    ``cosine``: linear warm-up, then half a cosine down to zero; ``constant`` and ``plateau``: linear warm-up, then flat
    (plateau is lowered by the loop when val stops improving).
    """
    warm = config.warmup
    falling = (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2 if warm < 1 else 1.0
    if config.schedule == "onecycle":
        if progress < warm:
            return config.lr * (ONECYCLE_START + (1 - ONECYCLE_START) * (1 - math.cos(math.pi * progress / warm)) / 2)
        return config.lr * (ONECYCLE_END + (1 - ONECYCLE_END) * falling)
    if progress < warm:
        return config.lr * progress / warm
    return config.lr * falling if config.schedule == "cosine" else config.lr


def momentum(config: PhaseConfig, progress: float) -> float:
    """AdamW's β₁ at ``progress``: moves opposite to the learning rate under ``onecycle``, else AdamW's default 0.9."""
    if config.schedule != "onecycle":
        return 0.9
    warm = config.warmup
    if progress < warm:
        share = (1 - math.cos(math.pi * progress / warm)) / 2
    else:
        share = (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2 if warm < 1 else 1.0
    return BETA1_FLAT + (BETA1_AT_PEAK - BETA1_FLAT) * share
