"""One optimiser step: the gradient of a batch, attacked or not, in as many micro-batches as memory requires."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df import rng
from robustbench_df.config import AdversarialConfig, PhaseConfig
from robustbench_df.errors import TrainError
from robustbench_df.memory import is_out_of_memory
from robustbench_df.models.detector import Detector
from robustbench_df.models.footprint import fitting_micro_batch
from robustbench_df.models.pretrained import head_modules
from robustbench_df.models.zoo import head_parameters
from robustbench_df.progress import Reporter
from robustbench_df.train.adversary import Adversary, Batch
from robustbench_df.train.augment import mix
from robustbench_df.train.objectives import trades_loss
from robustbench_df.train.speed import Setting
from robustbench_df.train.state import Trained


class Stepper:
    """Run the optimiser steps of a phase on ``detector``, in place, with images of ``size`` (height, width).

    Attributes:
        trained: everything that the steps change.
        micro: images per forward pass; halved when memory runs out.
    """

    def __init__(
        self, detector: Detector, config: PhaseConfig, size: tuple[int, int], setting: Setting, reporter: Reporter
    ) -> None:
        self._config, self._setting, self._reporter = config, setting, reporter
        adversarial = config if isinstance(config, AdversarialConfig) else None
        self._adversary = Adversary(detector, adversarial, setting) if adversarial is not None else None
        norms = self._adversary.norms if self._adversary is not None else None
        device = torch.device(setting.device)
        self.trained = Trained(
            detector,
            copy.deepcopy(detector).requires_grad_(False) if config.ema else None,
            _optimizer(detector, norms, config, device),
            # Only fp16 needs loss scaling; in other precisions the disabled scaler passes everything through.
            torch.amp.GradScaler(device.type, enabled=setting.precision == "fp16"),
            norms,
        )
        twins = adversarial is not None and adversarial.objective == "trades"
        fitting = fitting_micro_batch(config.batch_size, detector, size, device, twins=twins)
        self.micro = min(config.micro_batch or fitting, config.batch_size)
        self._batch = Batch(torch.empty(0))

    def begin_epoch(self) -> None:
        """Set train mode; with a frozen backbone only for the head module, so that batch statistics do not change.

        Dropout that a network applies outside its head module, as timm's networks do, is then off.
        """
        self.trained.detector.train(not self._config.freeze_backbone)
        if self._config.freeze_backbone:
            for head in head_modules(self.trained.detector.net):
                head.train()
        if self._adversary is not None:
            self._adversary.begin_epoch()

    def gradient(
        self, x: Tensor, y: Tensor, ids: Tensor, key: tuple[rng.Key, ...], generator: torch.Generator
    ) -> Tensor:
        """Compute the gradient of a batch's mean loss with respect to the weights; returns that loss.

        Args:
            x: images ``[N, 3, H, W]`` in [0, 1], augmented.
            y: labels ``[N]``.
            ids: image keys, int64 ``[N]``; together with ``key`` they determine the random draws of each image.
            key: the rest of the random key.
            generator: source of the random draws for the whole batch.

        Raises:
            TrainError: not even a single image fits into memory.
        """
        config = self._config
        while True:  # once, unless memory runs out
            try:
                self._batch = (
                    Batch(x)
                    if self._adversary is None
                    else self._adversary.attack(x, y, ids, key, self.micro, generator)
                )
                target = _one_hot(y, config.label_smoothing)
                images, target = mix(self._batch.images, target, config.mixup, config.cutmix, generator)
                self.trained.optimizer.zero_grad(set_to_none=True)
                return backward(self.trained, images, target, self._setting, self.micro, self._batch)
            except RuntimeError as error:
                self.micro = _smaller(self.micro, error, self._reporter)

    def update(self, rate: float, beta1: float, step: int) -> None:
        """Update the weights with their gradient; ``step`` counts from the start of the phase."""
        trained, config = self.trained, self._config
        for group in trained.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (beta1, 0.999)
        if config.clip_norm:
            trained.scaler.unscale_(trained.optimizer)
            moved = [p for group in trained.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(moved, config.clip_norm)
        trained.scaler.step(trained.optimizer)
        trained.scaler.update()
        if self._adversary is not None:
            self._adversary.learn(self._batch)
        if trained.ema is not None:
            average(trained.ema, trained.detector, config.ema, step)


def _optimizer(
    detector: Detector, norms: nn.Module | None, config: PhaseConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) without weight decay on biases, norms and scales."""
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


def _one_hot(y: Tensor, smoothing: float) -> Tensor:
    """Return class probabilities ``[N, 2]`` with label smoothing (Szegedy et al. 2016)."""
    return F.one_hot(y, 2).float() * (1 - smoothing) + smoothing / 2


def backward(trained: Trained, x: Tensor, target: Tensor, setting: Setting, micro: int, batch: Batch) -> Tensor:
    """Accumulate the gradient of the mean loss over micro-batches; returns the mean loss.

    ``x`` are the images of ``batch`` after mixing. The loss is the cross-entropy, or that of TRADES if ``batch`` has
    attacked partners.
    """
    total = torch.zeros((), device=x.device)
    for part, norms in batch.parts(micro):
        images = x[part] if batch.partner is None else torch.cat([x[part], batch.partner[part]])
        with setting.autocast(), norms:
            logits = trained.detector(images.contiguous(memory_format=setting.format))
        clean, wanted = logits[: len(part)].float(), target[part]
        if batch.partner is None:
            loss = F.cross_entropy(clean, wanted, reduction="sum") / len(x)
        else:
            loss = trades_loss(clean, logits[len(part) :].float(), wanted, batch.beta) / len(x)
        trained.scaler.scale(loss).backward()
        total += loss.detach()
    return total


def _smaller(micro: int, error: RuntimeError, reporter: Reporter) -> int:
    """Return half the micro-batch after an out-of-memory error.

    Raises:
        TrainError: even a single image did not fit.
        RuntimeError: ``error`` itself, if it is not an out-of-memory error.
    """
    if not is_out_of_memory(error):
        raise error
    if micro == 1:
        raise TrainError("out of memory with a single image; use a smaller model or --size") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reporter.warn(f"out of memory: micro-batch {micro} → {micro // 2}, accumulation doubled, training goes on")
    return micro // 2


@torch.no_grad()
def average(ema: nn.Module, detector: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the current weights; early steps use a smaller decay (as TensorFlow's EMA)."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    ours, theirs = list(ema.state_dict().values()), list(detector.state_dict().values())
    floats = [k for k, value in enumerate(ours) if value.is_floating_point()]
    torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], weight)
