"""The attacks that craft the adversarial images of phase 2, and the TRADES loss.

``fgsm`` is the published recipe; it is known to collapse (catastrophic overfitting). The objectives that work are
``fast``, ``pgd``, ``trades`` and ``free``. The adversarial images of ``free`` are a by-product of training; see
`robustbench_df.train.adversary`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df import rng
from robustbench_df.attacks.fgsm import fgsm, input_gradient
from robustbench_df.config import AdversarialConfig
from robustbench_df.models.detector import Detector, frozen, margins

FAST_STEP = 1.25
"""The one step of fast adversarial training as a multiple of eps (Wong, Rice & Kolter 2020, arXiv:2001.03994)."""
PGD_PATH = 2.5
"""Length of PGD's path as a multiple of eps (Madry et al. 2018, arXiv:1706.06083)."""
SELECT_STEPS = 10
"""Steps of the PGD attack that scores val for every objective but ``fgsm``."""
COLLAPSE = 0.5
"""The phase ends when PGD accuracy on val falls below this share of its best value: it never recovers from that."""


def craft(detector: Detector, x: Tensor, y: Tensor, eps: Tensor, config: AdversarialConfig, noise: Tensor) -> Tensor:
    """Return adversarial images ``[N, 3, H, W]`` within L∞ ``eps`` ``[N]`` of ``x``, crafted in eval mode.

    Args:
        detector: attacked with its current weights; modes, flags and statistics are restored.
        x, y: images in [0, 1] and labels ``[N]``.
        eps: budgets in pixels of [0, 1].
        config: names the objective and its steps.
        noise: uniform in [-1, 1], shape of ``x``: the random start of ``fast``, ``pgd`` and ``trades``.
    """
    if config.objective == "fgsm":
        return fgsm(detector, x, y, eps)
    if config.objective == "fast":
        return pgd(detector, x, y, eps, steps=1, path=FAST_STEP, noise=noise)
    if config.objective == "pgd":
        return pgd(detector, x, y, eps, steps=config.attack_steps, noise=noise)
    return _trades_images(detector, x, eps, config.attack_steps, noise)


def pgd(
    detector: Detector,
    x: Tensor,
    y: Tensor,
    eps: Tensor,
    *,
    steps: int,
    path: float = PGD_PATH,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the last iterate of projected gradient ascent in L∞; meant for training, so it never stops early."""
    with frozen(detector):
        return _ascend(lambda x_adv: input_gradient(detector, x_adv, y), x, eps, steps, path, noise)


def _trades_images(detector: Detector, x: Tensor, eps: Tensor, steps: int, noise: Tensor) -> Tensor:
    """Maximise the divergence from the clean prediction (Zhang et al. 2019, arXiv:1901.08573, algorithm 1).

    With two classes, the gradient of the divergence is the gradient of the margin times a scalar factor; the factor has
    the sign of the change of the margin. Only signs count in L∞, so only the sign of the factor is used: near the clean
    prediction its magnitude is so small that it would underflow to zero in fp16.
    """
    with frozen(detector):
        with torch.no_grad():
            clean = margins(detector(x).float())

        def gradient(x_adv: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = x_adv.detach().requires_grad_(True)
                margin = margins(detector(leaf).float())
                moved = torch.where(margin.detach() < clean, -1.0, 1.0)
                (slope,) = torch.autograd.grad((margin * moved).sum(), leaf)
            return slope

        return _ascend(gradient, x, eps, steps, PGD_PATH, noise)


def _ascend(
    gradient: Callable[[Tensor], Tensor], x: Tensor, eps: Tensor, steps: int, path: float, noise: Tensor | None
) -> Tensor:
    """Ascend in L∞ along the signs of ``gradient``, with projection; ``path`` is the total length in units of eps."""
    bound = eps.reshape(-1, 1, 1, 1)
    x_adv = x if noise is None else (x + bound * noise).clamp(0, 1)
    for _ in range(steps):
        step = bound * (path / steps) * gradient(x_adv).sign()
        x_adv = (x + (x_adv + step - x).clamp(-bound, bound)).clamp(0, 1)
    return x_adv


def trades_loss(clean: Tensor, attacked: Tensor, target: Tensor, beta: float) -> Tensor:
    """Cross-entropy of the clean logits plus ``beta`` times KL(clean ‖ attacked), summed over the batch (eq. 5)."""
    natural = F.cross_entropy(clean, target, reduction="sum")
    divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="sum")
    return natural + beta * divergence


def start_noise(ids: Tensor, shape: torch.Size, *key: rng.Key) -> Tensor:
    """Return uniform numbers in [-1, 1], one random stream per image."""
    return rng.uniform(ids, shape, "adversarial start", *key) * 2 - 1


def collapsed(history: list[dict[str, Any]]) -> bool:
    """Whether PGD accuracy on val has fallen below `COLLAPSE` times its best value: catastrophic overfitting."""
    seen = [row["val_pgd_accuracy"] for row in history if "val_pgd_accuracy" in row]
    return len(seen) > 1 and seen[-1] < COLLAPSE * max(seen)
