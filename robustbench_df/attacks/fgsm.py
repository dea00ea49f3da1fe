"""The fast gradient sign method (Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.models.detector import Detector, frozen, margins


def input_gradient(detector: Detector, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the margin ``logit_wrong - logit_true`` with respect to the pixels, ``[N, 3, H, W]``.

    With two classes the cross-entropy gradient of each image is a positive multiple of this gradient (softmax of two
    logits), so the sign is the same; but the margin's gradient cannot saturate to zero. The detector must be frozen
    (`frozen`). The cost is one forward and one backward with respect to the input only.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        logits = detector(leaf)
        sign = torch.where(y == 1, -1.0, 1.0)
        margin = margins(logits).float() * sign
        (gradient,) = torch.autograd.grad(margin.sum(), leaf)
    return gradient


def fgsm(detector: Detector, x: Tensor, y: Tensor, eps: Tensor | float) -> Tensor:
    """Return ``clip(x + eps * sign(gradient), 0, 1)``: the strongest single L∞ step on a linearised detector.

    Args:
        detector: attacked in eval mode; its statistics and weight gradients do not change, and its modes and flags are
            restored.
        x: images ``[N, 3, H, W]`` in [0, 1].
        y: labels ``[N]``, 1 = fake.
        eps: L∞ budget in pixels of [0, 1], one number or ``[N]``.
    """
    with frozen(detector):
        direction = input_gradient(detector, x, y).sign()
    budget = torch.as_tensor(eps, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
    return (x + budget * direction).clamp(0, 1)
