"""The one training loop. Phase 1 trains on clean images, phase 2 continues on clean and adversarial images together.

Everything random is keyed by (seed, model, fold, phase, epoch, image). A phase resumed from its last saved epoch
therefore ends with the same weights as an uninterrupted one, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.config import AdversarialConfig, PhaseConfig
from robustbench_df.data.split import Split
from robustbench_df.devices import working
from robustbench_df.errors import DataError, TrainError
from robustbench_df.memory import give_back_freed_memory
from robustbench_df.models.detector import Detector
from robustbench_df.progress import Reporter
from robustbench_df.rundir import write_json, write_text
from robustbench_df.train.augment import augment
from robustbench_df.train.job import PHASES, Job, build_for
from robustbench_df.train.objectives import collapsed
from robustbench_df.train.schedule import learning_rate, momentum, planned_epochs, steps_per_epoch
from robustbench_df.train.speed import prepare
from robustbench_df.train.state import (
    load_checkpoint,
    load_state,
    resolved_detector,
    save_model_config,
    save_state,
    save_weights,
    snapshot,
)
from robustbench_df.train.step import Stepper
from robustbench_df.train.traindata import TrainData
from robustbench_df.train.validation import smoothed, validate

_PLATEAU_PATIENCE = 3
"""Epochs without a better score after which the ``plateau`` schedule halves the learning rate."""

_CHECK_EVERY = 16
"""Steps between checks of the loss on an accelerator, where each check waits for the device."""


def fit(job: Job, split: Split, reporter: Reporter | None = None) -> Path:
    """Train one detector through both phases; finished phases are kept and skipped on a second call.

    Returns the folder with ``base.safetensors``, ``final.safetensors``, ``model.json`` and ``history.jsonl``.

    Raises:
        TrainError: the loss is not finite, or even one image does not fit in memory.
    """
    reporter = reporter or Reporter()
    with working(job.setting.threads):
        for name, config in zip(PHASES, (job.recipe.phase1, job.recipe.phase2), strict=True):
            if not (job.folder / f"{name}.safetensors").exists():
                _Phase(job, name, config, _set_out(job, name, split), split, reporter).run()
    give_back_freed_memory()
    return job.folder


def _set_out(job: Job, phase: str, split: Split) -> Detector:
    """Return the detector that a phase starts from: a fresh one, or the result of the previous phase."""
    if phase == "final":
        detector = load_checkpoint(job.folder, "base")
    else:
        begun = (job.folder / f"{phase}-state.pt").exists()
        detector, model = resolved_detector(job.folder) if begun else build_for(job, split.images.size)
        save_model_config(job.folder, model, split.images.size)
    prepare(detector, job.setting)
    return detector


class _Phase:
    """One training phase of one detector, from its last saved epoch (if any) to its checkpoint."""

    def __init__(
        self, job: Job, name: str, config: PhaseConfig, detector: Detector, split: Split, reporter: Reporter
    ) -> None:
        self._job, self._name, self._config, self._split, self._reporter = job, name, config, split, reporter
        self._adversarial = config if isinstance(config, AdversarialConfig) else None
        self._data = TrainData(split, job.setting.device)
        self._data.add_augmented(config, job.recipe.augment, rng.seed_of(*job.key(name)))
        if self._adversarial is not None:
            self._data.add_adversarial(self._adversarial, detector, rng.seed_of(*job.key(name)))
        write_json(job.folder / f"{name}-copies.json", self._data.provenance())
        self._epochs = planned_epochs(config, len(self._data))
        self._steps = steps_per_epoch(config, len(self._data))
        self._stepper = Stepper(detector, config, split.images.size, job.setting, reporter)
        self._state = job.folder / f"{name}-state.pt"
        self._progress = load_state(self._state, self._stepper.trained)
        self._stepper.micro = self._progress.micro_batch or self._stepper.micro
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train the remaining epochs of the phase and write its checkpoint."""
        progress, title = self._progress, f"{self._job.title} · {self._name}"
        self._begin(title)
        for epoch in range(progress.epoch, self._epochs):
            if self._config.patience and self._validated and epoch - 1 - progress.best_epoch >= self._config.patience:
                break  # early stopping: ``patience`` epochs have passed without a better score
            if collapsed(progress.history):
                break
            started = time.perf_counter()
            row = self._train(epoch)
            self._judge(epoch, row)
            row["seconds"] = round(time.perf_counter() - started, 2)
            self._keep(row)
        self._reporter.finish()
        if collapsed(progress.history):
            kept = "the best epoch" if self._config.select == "best" else "the one before"
            self._reporter.warn(
                f"{title}: PGD accuracy on val has collapsed (catastrophic overfitting); {kept} is kept"
            )
        weights = progress.best or snapshot(self._stepper.trained.detector)
        save_weights(self._job.folder / f"{self._name}.safetensors", weights)
        self._state.unlink(missing_ok=True)

    def _begin(self, title: str) -> None:
        trained, progress, adversarial = self._stepper.trained, self._progress, self._adversarial
        if adversarial is not None and progress.epoch == 0 and self._validated and self._config.select == "best":
            # The starting point of phase 2 is a candidate too: fine-tuning that only does harm is not kept.
            progress.best_score = validate(trained.detector, self._split, adversarial)["score"]
            progress.best = snapshot(trained.detector)
        if adversarial is not None and adversarial.separate_norm and trained.norms is None:
            self._reporter.warn(f"{title}: it has no batch normalisation to separate; separate_norm does nothing")
        images = self._steps * self._config.batch_size
        self._reporter.start(title, self._epochs * images, progress.epoch * images)

    @property
    def _validated(self) -> bool:
        return len(self._split.val) > 0

    def _train(self, epoch: int) -> dict[str, Any]:
        """Train one epoch and return its history row."""
        config, steps, stepper, started = self._config, self._steps, self._stepper, time.perf_counter()
        key = self._job.key(self._name, epoch)
        torch.manual_seed(rng.seed_of(*key))  # dropout and drop-path draw from the global generator
        generator = torch.Generator().manual_seed(rng.seed_of(*key, "order"))
        order = torch.randperm(len(self._data), generator=generator)
        stepper.begin_epoch()
        losses: list[Tensor] = []
        rate = 0.0
        for step in range(steps):
            at = step // config.steps_per_batch * config.batch_size
            x, y, ids = self._data.batch(order[at : at + config.batch_size])
            losses.append(stepper.gradient(augment(x, self._job.recipe.augment, ids, *key), y, ids, key, generator))
            done = (epoch * steps + step + 0.5) / (self._epochs * steps)
            rate = learning_rate(config, done) * self._progress.plateau
            if x.device.type == "cpu" or step % _CHECK_EVERY == 0 or step == steps - 1:
                self._require_finite(losses, epoch, step, rate)
            stepper.update(rate, momentum(config, done), epoch * steps + step)
            self._reporter.advance(len(x))
        return {
            "phase": self._name,
            "epoch": epoch + 1,
            "loss": round(float(torch.stack(losses).mean()), 6),
            "lr": rate,
            "images_per_second": round(steps * config.batch_size / (time.perf_counter() - started), 1),
        }

    def _judge(self, epoch: int, row: dict[str, Any]) -> None:
        """Score the weights after the epoch, keep them if ``select`` says so, and lower the learning rate on a plateau.

        The scores are added to ``row``. Without val there is no score: the last epoch is kept and the rate is never
        lowered. An epoch after which robustness has collapsed is not kept for being the last.
        """
        trained, progress, config = self._stepper.trained, self._progress, self._config
        kept = trained.ema if trained.ema is not None else trained.detector
        better = False
        if self._validated:
            try:
                row |= validate(kept, self._split, self._adversarial)
            except DataError as error:  # the epoch's last step was too large; its loss was still finite
                raise self._diverged(f"after epoch {epoch + 1}: {error}", row["lr"]) from error
            score = smoothed([*progress.history, row])
            better = score > progress.best_score
            if better:
                progress.best_score, progress.best_epoch = score, epoch
            waited = epoch - max(progress.best_epoch, progress.plateau_epoch)
            if config.schedule == "plateau" and waited >= _PLATEAU_PATIENCE:
                progress.plateau, progress.plateau_epoch = progress.plateau / 2, epoch
        last = config.select == "last" or not self._validated
        if better or (last and not collapsed([*progress.history, row])):
            progress.best = snapshot(kept)

    def _keep(self, row: dict[str, Any]) -> None:
        """Write the history and, if a save is due, the state."""
        progress = self._progress
        progress.history.append(row)
        progress.epoch, progress.micro_batch = row["epoch"], self._stepper.micro
        lines = (json.dumps(one) + "\n" for one in progress.history)
        write_text(self._job.folder / f"{self._name}-history.jsonl", "".join(lines))
        self._reporter.epoch(row)
        if time.monotonic() - self._saved_at >= self._job.save_every:
            save_state(self._state, progress, self._stepper.trained)
            self._saved_at = time.monotonic()

    def _require_finite(self, losses: list[Tensor], epoch: int, step: int, rate: float) -> None:
        """Raise `TrainError` on a non-finite loss, before it reaches the weights that are kept."""
        recent = torch.stack(losses[-_CHECK_EVERY:])
        if not bool(torch.isfinite(recent).all()):
            first = step - len(recent) + 1 + int(torch.nonzero(~torch.isfinite(recent))[0])
            raise self._diverged(f"the loss is not finite at epoch {epoch + 1}, step {first + 1}", rate)

    def _diverged(self, what: str, rate: float) -> TrainError:
        table = "phase2" if self._adversarial is not None else "phase1"
        return TrainError(
            f"{self._job.name} {self._name}: {what}, lr {rate:.2e}; {self._last_good()}; try a smaller rate "
            f"(--set {table}.lr=...)"
        )

    def _last_good(self) -> str:
        """Say which file holds the last good weights."""
        for path in (self._state, self._job.folder / "base.safetensors"):
            if path.exists():
                return f"the last good checkpoint is '{path}'"
        return "no checkpoint had been saved yet"
