"""Score of an epoch, by which the checkpoint is chosen: performance on val, clean and under attack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustbench_df.config import AdversarialConfig
from robustbench_df.data.split import Split
from robustbench_df.evaluate import predict_logits
from robustbench_df.metrics.scores import accuracy, auc, log_loss, margins
from robustbench_df.models.detector import Detector
from robustbench_df.train.objectives import PGD_PATH, SELECT_STEPS, pgd

_SMOOTH = 3


def validate(detector: Detector, split: Split, adversarial: AdversarialConfig | None) -> dict[str, Any]:
    """Score a detector on val: clean, and in phase 2 also under attack; ``score`` chooses the checkpoint."""
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
        # Clean and adversarial AUC have equal weight: trading one for the other does not improve the score.
        row["score"] = (row["val_auc"] + row[f"val_{name}_auc"]) / 2
    return {name: round(float(value), 6) for name, value in row.items()}


def smoothed(history: list[dict[str, Any]]) -> float:
    """Return the mean score of the last `_SMOOTH` epochs: one lucky epoch on a few hundred images is not progress."""
    scores = [row["score"] for row in history[-_SMOOTH:]]
    return float(sum(scores) / len(scores))
