"""`CleanPasses`: budgets taken one after the other cost and find what budgets taken together do."""

from __future__ import annotations

import tempfile
from dataclasses import fields

import pytest
import torch

from robustbench_df.attacks.clean import CleanPasses
from robustbench_df.attacks.runner import Attacked, run_attack, run_sweep, validate_budget
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import NORMS
from tests.attacks.detectors import Linear, images, labels_of
from tests.attacks.test_runner import Counted

BUDGETS = {"linf": (0.0, 0.02, 0.05), "l2": (0.0, 0.2, 0.5), "l1": (0.0, 1.0, 5.0)}


@pytest.mark.parametrize("norm", NORMS)
def test_one_after_the_other_is_as_all_together(norm: str) -> None:
    detector, x = Counted(Linear()), images(10)
    y = labels_of(detector, x)
    y[0] = 1 - y[0]  # wrong when clean
    spec = AttackSpec.model_validate({"name": "fgsm", "norm": norm})
    together = run_sweep(detector, x, y, spec, BUDGETS[norm], cumulative=False, batch_size=4)
    detector.forwards = detector.backwards = 0
    with tempfile.TemporaryFile() as file:
        clean = CleanPasses(file)
        apart = [
            run_attack(detector, x, y, validate_budget(spec, eps), clean=clean, batch_size=4) for eps in BUDGETS[norm]
        ]
    assert any(bool(found.success.any()) for found in apart)
    for one, other in zip(together, apart, strict=True):
        for field in fields(Attacked):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert detector.forwards == 10 + 2 * 9  # the clean pass, and two budgets of the images that were right
    assert detector.backwards == 10
    assert sum(int(found.forwards.sum()) for found in apart) == detector.forwards
    assert sum(int(found.backwards.sum()) for found in apart) == detector.backwards


def test_a_batch_with_an_unknown_image_is_asked_about() -> None:
    detector, x = Counted(Linear()), images(6)
    y, ids = labels_of(detector, x), torch.arange(6)
    spec = AttackSpec(name="fgsm", eps=0.05)
    with tempfile.TemporaryFile() as file:
        clean = CleanPasses(file)
        run_attack(detector, x[:4], y[:4], spec, ids=ids[:4], clean=clean)
        known = run_attack(detector, x[[3, 1]], y[[3, 1]], spec, ids=ids[[3, 1]], clean=clean)
        more = run_attack(detector, x[2:], y[2:], spec, ids=ids[2:], clean=clean)
    alone = run_attack(detector, x, y, spec)
    assert known.backwards.tolist() == [0, 0]
    assert more.backwards.tolist() == [1, 1, 1, 1]
    assert torch.equal(known.x_adv, alone.x_adv[[3, 1]])
    assert torch.equal(more.x_adv, alone.x_adv[2:])
