"""The one training loop. Phase 1 learns clean images, phase 2 goes on with clean and adversarial images together.

Everything random is keyed by (seed, model, fold, phase, epoch, image), so a phase resumed from its last saved epoch
ends in the same weights, bit for bit on a CPU, as one that was never stopped.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df import rng
from robustbench_df.config import AdversarialConfig, ModelConfig, PhaseConfig, Recipe
from robustbench_df.data.split import Split
from robustbench_df.errors import TrainError
from robustbench_df.evaluate import predict_logits
from robustbench_df.memory import is_out_of_memory
from robustbench_df.metrics.scores import accuracy, auc, log_loss, margins
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector, head_parameters
from robustbench_df.rundir import write_json, write_text
from robustbench_df.train.adversary import Adversary, Batch
from robustbench_df.train.augment import augment, mix
from robustbench_df.train.objectives import PGD_PATH, SELECT_STEPS, collapsed, pgd, trades_loss
from robustbench_df.train.report import Reporter
from robustbench_df.train.schedule import learning_rate, momentum, planned_epochs, steps_per_epoch
from robustbench_df.train.speed import Setting, apply_format, working
from robustbench_df.train.state import (
    load_checkpoint,
    load_state,
    resolved_detector,
    save_model_config,
    save_state,
    save_weights,
    snapshot,
)
from robustbench_df.train.traindata import TrainData

PHASES = ("base", "final")
"""The checkpoints kept: after clean training, and after adversarial fine-tuning."""

_PLATEAU_PATIENCE = 3
"""Epochs without a better score after which the ``plateau`` schedule halves the rate."""

_SMOOTH = 3

_CHECK_EVERY = 16
"""Steps between looks at the loss on an accelerator, where each look waits for the device."""


@dataclass(frozen=True)
class Job:
    """One detector to train: its name, recipe, place on disk and key of randomness."""

    name: str
    recipe: Recipe
    folder: Path
    setting: Setting
    seed: int = 0
    fold: int = -1
    save_every: float = 20.0

    def key(self, *more: rng.Key) -> tuple[rng.Key, ...]:
        """The key under which this job draws its random numbers."""
        return (self.seed, self.name, self.fold, *more)


def build_for(job: Job, size: tuple[int, int]) -> tuple[Detector, ModelConfig]:
    """Build the job's detector with its own initialisation, whatever was random before."""
    with torch.random.fork_rng():
        torch.manual_seed(rng.seed_of(*job.key("init")))
        return build_detector(job.recipe.model, size)


def fit(job: Job, split: Split, reporter: Reporter | None = None) -> Path:
    """Train one detector through both phases; finished phases are kept and skipped on a second call.

    Returns the folder with ``base.safetensors``, ``final.safetensors``, ``model.json`` and ``history.jsonl``.

    Raises:
        TrainError: the loss is not finite, or even one image does not fit in memory.
    """
    reporter = reporter or Reporter()
    with working(job.setting.threads):
        _fit(job, split, reporter)
    return job.folder


def _fit(job: Job, split: Split, reporter: Reporter) -> None:
    for phase, config in zip(PHASES, (job.recipe.phase1, job.recipe.phase2), strict=True):
        if (job.folder / f"{phase}.safetensors").exists():
            continue
        if phase == "base":
            begun = (job.folder / f"{phase}-state.pt").exists()
            detector, model = resolved_detector(job.folder) if begun else build_for(job, split.images.size)
            save_model_config(job.folder, model, split.images.size)
        else:
            detector = load_checkpoint(job.folder, "base")
        apply_format(detector, job.setting)
        run_phase(job, phase, config, detector, split, reporter)


def run_phase(job: Job, phase: str, config: PhaseConfig, detector: Detector, split: Split, reporter: Reporter) -> None:
    """Train ``detector`` through one phase, from its last saved epoch if there is one, and write its checkpoint."""
    setting, device = job.setting, torch.device(job.setting.device)
    adversarial = config if isinstance(config, AdversarialConfig) else None
    data = TrainData(split, setting.device)
    data.add_augmented(config, job.recipe.augment, rng.seed_of(*job.key(phase)))
    if adversarial is not None:
        data.add_adversarial(adversarial, detector, rng.seed_of(*job.key(phase)))
    write_json(job.folder / f"{phase}-copies.json", data.provenance())

    adversary = Adversary(detector, adversarial, setting) if adversarial is not None else None
    norms = adversary.norms if adversary is not None else None
    optimizer = _optimizer(detector, norms, config, device)
    ema = copy.deepcopy(detector).requires_grad_(False) if config.ema else None
    # Only fp16 needs loss scaling; elsewhere the scaler passes everything through.
    scaler = torch.amp.GradScaler(device.type, enabled=setting.precision == "fp16")
    state_path = job.folder / f"{phase}-state.pt"
    progress = load_state(state_path, detector, ema, optimizer, scaler, norms)
    saved_at = time.monotonic()

    epochs = planned_epochs(config, len(data))
    steps = steps_per_epoch(config, len(data))
    micro = progress.micro_batch or min(config.micro_batch or config.batch_size, config.batch_size)
    title = f"{job.name}{f' fold {job.fold + 1}' if job.fold >= 0 else ''} · {phase}"
    if adversarial is not None and progress.epoch == 0 and len(split.val) and config.select == "best":
        # Where phase 2 sets out from is a candidate too: fine-tuning that only does harm is not kept.
        progress.best_score, progress.best = _validate(detector, split, adversarial)["score"], snapshot(detector)
    if adversarial is not None and adversarial.separate_norm and norms is None:
        reporter.warn(f"{title}: it has no batch normalisation to separate; separate_norm does nothing")
    reporter.start(title, epochs * steps * config.batch_size, progress.epoch * steps * config.batch_size)

    for epoch in range(progress.epoch, epochs):
        if config.patience and epoch - 1 - progress.best_epoch >= config.patience:
            break  # early stopping: so many finished epochs brought nothing better
        if collapsed(progress.history):
            reporter.warn(f"{title}: PGD accuracy on val has collapsed (catastrophic overfitting); the best is kept")
            break
        started = time.perf_counter()
        key = job.key(phase, epoch)
        torch.manual_seed(rng.seed_of(*key))  # dropout and drop-path have no other source
        generator = torch.Generator().manual_seed(rng.seed_of(*key, "order"))
        order = torch.randperm(len(data), generator=generator)
        _train_mode(detector, config)
        if adversary is not None:
            adversary.begin_epoch()
        losses: list[Tensor] = []
        for step in range(steps):
            at = (step // (adversary.replays if adversary is not None else 1)) * config.batch_size
            x, y, ids = data.batch(order[at : at + config.batch_size])
            x = augment(x, job.recipe.augment, ids, *key)
            done = (epoch * steps + step + 0.5) / (epochs * steps)
            rate = learning_rate(config, done) * progress.plateau
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rate, (momentum(config, done), 0.999)
            while True:  # once, unless memory runs out
                try:
                    batch = Batch(x) if adversary is None else adversary.attack(x, y, ids, key, micro, generator)
                    target = _one_hot(y, config.label_smoothing)
                    images, target = mix(batch.images, target, config.mixup, config.cutmix, generator)
                    optimizer.zero_grad(set_to_none=True)
                    losses.append(_backward(detector, images, target, setting, scaler, micro, batch))
                    break
                except RuntimeError as error:
                    micro = _smaller(micro, error, reporter)
            if device.type == "cpu" or step % _CHECK_EVERY == 0 or step == steps - 1:
                _require_finite(losses, job, phase, epoch, step, rate)
            if config.clip_norm:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(_trained(optimizer), config.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            if adversary is not None:
                adversary.learn(batch)
            if ema is not None:
                _average(ema, detector, config.ema, epoch * steps + step)
            reporter.advance(len(x))

        row: dict[str, Any] = {
            "phase": phase,
            "epoch": epoch + 1,
            "loss": round(float(torch.stack(losses).mean()), 6),
            "lr": rate,
            "images_per_second": round(steps * config.batch_size / (time.perf_counter() - started), 1),
        }
        kept = ema if ema is not None else detector
        score = float(epoch)
        if len(split.val):
            row |= _validate(kept, split, adversarial)
            score = _smoothed([*progress.history, row]) if config.select == "best" else score
        if score > progress.best_score:
            progress.best_score, progress.best_epoch, progress.best = score, epoch, snapshot(kept)
        waited = epoch - max(progress.best_epoch, progress.plateau_epoch)
        if config.schedule == "plateau" and waited >= _PLATEAU_PATIENCE:
            progress.plateau, progress.plateau_epoch = progress.plateau / 2, epoch
        row["seconds"] = round(time.perf_counter() - started, 2)
        progress.history.append(row)
        progress.epoch, progress.micro_batch = epoch + 1, micro
        write_text(job.folder / f"{phase}-history.jsonl", "".join(_lines(progress.history)))
        reporter.epoch(row)
        if time.monotonic() - saved_at >= job.save_every:
            save_state(state_path, progress, detector, ema, optimizer, scaler, norms)
            saved_at = time.monotonic()

    reporter.finish()
    save_weights(job.folder / f"{phase}.safetensors", progress.best or snapshot(detector))
    state_path.unlink(missing_ok=True)


def _optimizer(
    detector: Detector, norms: nn.Module | None, config: PhaseConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) with no decay on biases, norms and scales."""
    if config.freeze_backbone:
        detector.requires_grad_(False)
        for parameter in head_parameters(detector):
            parameter.requires_grad_(True)
    parameters = [*detector.parameters(), *(norms.parameters() if norms is not None else ())]
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.lr, fused=device.type != "mps")


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _train_mode(detector: Detector, config: PhaseConfig) -> None:
    """Train mode; under a frozen backbone only the head, so that its batch statistics stay as they are."""
    detector.train(not config.freeze_backbone)


def _one_hot(y: Tensor, smoothing: float) -> Tensor:
    """Class probabilities ``[N, 2]`` with label smoothing (Szegedy et al. 2016)."""
    return F.one_hot(y, 2).float() * (1 - smoothing) + smoothing / 2


def _backward(
    detector: Detector,
    x: Tensor,
    target: Tensor,
    setting: Setting,
    scaler: torch.amp.GradScaler,
    micro: int,
    batch: Batch | None = None,
) -> Tensor:
    """Accumulate the gradient of the mean loss over micro-batches; returns the mean loss.

    The loss is the cross-entropy of ``x``, the images of ``batch`` after mixing; where that has partners, of TRADES.
    """
    batch = batch or Batch(x)
    total = torch.zeros((), device=x.device)
    for part, norms in batch.parts(micro):
        images = x[part] if batch.partner is None else torch.cat([x[part], batch.partner[part]])
        with setting.autocast(), norms:
            logits = detector(images.contiguous(memory_format=setting.format))
        clean, wanted = logits[: len(part)].float(), target[part]
        if batch.partner is None:
            loss = F.cross_entropy(clean, wanted, reduction="sum") / len(x)
        else:
            loss = trades_loss(clean, logits[len(part) :].float(), wanted, batch.beta) / len(x)
        scaler.scale(loss).backward()
        total += loss.detach()
    return total


def _smaller(micro: int, error: RuntimeError, reporter: Reporter) -> int:
    """Halve the micro-batch after an out-of-memory error; any other error goes on its way.

    Raises:
        TrainError: one image already was too much.
    """
    if not is_out_of_memory(error):
        raise error
    if micro == 1:
        raise TrainError("out of memory with a single image; use a smaller model or --size") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reporter.warn(f"out of memory: micro-batch {micro} → {micro // 2}, accumulation doubled, training goes on")
    return micro // 2


def _require_finite(losses: list[Tensor], job: Job, phase: str, epoch: int, step: int, rate: float) -> None:
    """Stop before a non-finite loss reaches the weights that are kept."""
    recent = torch.stack(losses[-_CHECK_EVERY:])
    if not bool(torch.isfinite(recent).all()):
        first = step - len(recent) + 1 + int(torch.nonzero(~torch.isfinite(recent))[0])
        table = "phase2" if phase == "final" else "phase1"
        raise TrainError(
            f"{job.name} {phase}: the loss is not finite at epoch {epoch + 1}, step {first + 1}, lr {rate:.2e}; "
            f"{_last_good(job.folder, phase)}; try a smaller rate (--set {table}.lr=...)"
        )


def _last_good(folder: Path, phase: str) -> str:
    """Say which file holds the last weights worth having."""
    for name in (f"{phase}-state.pt", "base.safetensors"):
        if (folder / name).exists():
            return f"the last good checkpoint is '{folder / name}'"
    return "no checkpoint had been saved yet"


@torch.no_grad()
def _average(ema: nn.Module, detector: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the current weights; early steps average less (as in TensorFlow's EMA)."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    ours, theirs = list(ema.state_dict().values()), list(detector.state_dict().values())
    floats = [k for k, value in enumerate(ours) if value.is_floating_point()]
    torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], weight)


def _validate(detector: Detector, split: Split, adversarial: AdversarialConfig | None) -> dict[str, Any]:
    """Score val: clean, and in phase 2 also under attack; ``score`` is what chooses the checkpoint."""
    labels = split.images.labels[split.val]
    clean = margins(predict_logits(detector, split.images, split.val))
    row = {
        "val_auc": auc(clean, labels),
        "val_accuracy": accuracy(clean, labels),
        "val_loss": log_loss(clean, labels),
    }
    row["score"] = row["val_auc"]
    if adversarial is not None:
        eps, name = adversarial.select_epsilon, "fgsm" if adversarial.objective == "fgsm" else "pgd"
        steps, path = (1, 1.0) if name == "fgsm" else (SELECT_STEPS, PGD_PATH)

        def attack(d: Detector, x: Tensor, y: Tensor) -> Tensor:
            return pgd(d, x, y, torch.full((len(x),), eps, device=x.device), steps=steps, path=path)

        under = margins(predict_logits(detector, split.images, split.val, transform=attack))
        row[f"val_{name}_auc"], row[f"val_{name}_accuracy"] = auc(under, labels), accuracy(under, labels)
        # Clean and adversarial count alike: a checkpoint that buys one with the other is not preferred.
        row["score"] = (row["val_auc"] + row[f"val_{name}_auc"]) / 2
    return {name: round(float(value), 6) for name, value in row.items()}


def _smoothed(history: list[dict[str, Any]]) -> float:
    """Mean score of the last `_SMOOTH` epochs: one epoch's luck on a few hundred val images is not progress."""
    scores = [row["score"] for row in history[-_SMOOTH:]]
    return float(sum(scores) / len(scores))


def _lines(history: list[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row) + "\n" for row in history)
