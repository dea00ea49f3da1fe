"""What a cell of an experiment works with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_df.lab import Lab
from tests.conftest import learnable_set


def test_attacked_images_are_of_both_classes_even_if_they_alternate(tmp_path: Path) -> None:
    config = {"split": {"train": 0.5, "val": 0.1, "cal": 0.0, "test": 0.4}, "attack_images": 20}
    lab = Lab(learnable_set(160), config, device="cpu", shelf=tmp_path)
    labels = lab.images.labels
    assert (labels[::2] == labels[0]).all()  # they do
    assert np.bincount(labels[lab.attacked_index]).tolist() == [8, 8]  # every fourth of 64


def test_what_withstands_several_attacks_withstands_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacking only what the former attack left standing changes the cost and not the number."""
    config = {
        "split": {"train": 0.5, "val": 0.1, "cal": 0.0, "test": 0.4},
        "recipe": {"model": {"name": "mlp", "frontend": "rgb"}, "phase1": {"image_budget": 400}},
        "attack_images": 40,
    }
    lab = Lab(learnable_set(160), config, device="cpu", shelf=tmp_path)
    detector, eps = lab.trained(), 0.02
    attacks = {"noise": {}, "fgsm": {}, "pgd": {"steps": 5}}
    alone = {how: lab.attack(detector, how, eps, **own).robust for how, own in attacks.items()}
    assert len({int(stands.sum()) for stands in alone.values()}) > 1, "choose another ε: no attack adds to another"
    asked: list[int] = []
    whole = Lab._attack
    monkeypatch.setattr(Lab, "_attack", lambda *a: (asked.append(len(a[2])), whole(*a))[1])
    together = lab.withstood(detector, attacks, eps)
    standing = alone["noise"] & alone["fgsm"] & alone["pgd"]
    assert (together.value, together.n) == (pytest.approx(standing.float().mean().item()), len(standing))
    assert asked == [len(standing), int(alone["noise"].sum()), int((alone["noise"] & alone["fgsm"]).sum())]
