"""`CleanPasses`: budgets taken one after the other cost and find what budgets taken together do."""

from __future__ import annotations

import tempfile
from dataclasses import fields

import pytest
import torch

from robustbench_df.attacks.clean import CleanPasses
from robustbench_df.attacks.runner import Attacked, run_attack, run_sweep
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.suite import run_suite, suite_specs
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
        apart = [run_attack(detector, x, y, spec.replaced(eps=eps), clean=clean, batch_size=4) for eps in BUDGETS[norm]]
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
    y = labels_of(detector, x)
    spec = AttackSpec(name="fgsm", eps=0.05)
    with tempfile.TemporaryFile() as file:
        clean = CleanPasses(file)
        run_attack(detector, x[:4], y[:4], spec, clean=clean)
        known = run_attack(detector, x[[3, 1]], y[[3, 1]], spec, clean=clean)
        more = run_attack(detector, x[2:], y[2:], spec, clean=clean)
        mislabelled = run_attack(detector, x[:4], 1 - y[:4], spec, clean=clean)
        another = run_attack(Linear(seed=3), x[:4], y[:4], spec, clean=clean)
    alone = run_attack(detector, x, y, spec)
    assert known.backwards.tolist() == [0, 0]
    assert more.backwards.tolist() == [1, 1, 1, 1]
    assert torch.equal(known.x_adv, alone.x_adv[[3, 1]])
    assert torch.equal(more.x_adv, alone.x_adv[2:])
    assert not mislabelled.correct.any()
    assert torch.equal(another.x_adv, run_attack(Linear(seed=3), x[:4], y[:4], spec).x_adv)


@pytest.mark.parametrize("norm", NORMS)
def test_a_suite_asks_about_clean_images_once(norm: str) -> None:
    detector, x = Counted(Linear()), images(12)
    y, eps = labels_of(detector, x), float(detector.net.distance(x, norm).median())
    detector.forwards = detector.backwards = 0
    told: list[int] = []
    found = run_suite(detector, x, y, "quick", eps=eps, norm=norm, batch_size=5, progress=told.append)
    assert told[0] == int(found.success.sum() - (found.by == 1).sum())  # FGSM's, which PGD is not asked about
    assert sum(told) == 12
    asked = detector.forwards, detector.backwards
    assert (int(found.forwards.sum()), int(found.backwards.sum())) == asked
    first, second = (run_attack(detector, x, y, spec) for spec in suite_specs("quick", eps, norm))
    left = ~first.success
    assert 0 < int(left.sum()) < 12
    expected = run_attack(detector, x[left], y[left], suite_specs("quick", eps, norm)[1])
    assert asked[0] == int(first.forwards.sum() + expected.forwards.sum()) - int(left.sum())
    assert asked[1] == int(first.backwards.sum() + expected.backwards.sum()) - int(left.sum())
    assert torch.equal(found.success, first.success | second.success)
