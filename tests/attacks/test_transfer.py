"""Images crafted on one detector and asked about at another."""

from __future__ import annotations

import torch

from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.transfer import judged, right_on, transferred
from tests.attacks.detectors import Linear, images, labels_of
from tests.conftest import Scarce

SPEC = AttackSpec(name="pgd", eps=0.02, steps=5)


def test_what_is_crafted_on_the_detector_itself_fools_it_as_the_attack_does() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    own, other = (transferred(detector, source, x, y, SPEC, batch_size=7) for source in (detector, Linear(seed=5)))
    assert torch.equal(own.success, run_attack(detector, x, y, SPEC).success)
    assert own.success.sum() > other.success.sum()
    assert (own.forwards == 2).all()  # clean, and the crafted image
    assert (own.backwards == 0).all()


def test_an_image_beyond_the_budget_is_no_success_and_one_wrong_when_clean_is_not_asked_about() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    y[:3] = 1 - y[:3]
    far = 1 - x  # mirrored at 0.5, so every margin changes its sign
    found = judged(detector, x, y, far, SPEC)
    assert not found.success.any()
    assert torch.equal(torch.isfinite(found.nearest), found.correct)
    assert torch.equal(found.forwards, 1 + found.correct.long())
    assert not found.correct[:3].any()
    assert judged(detector, x, y, far, SPEC.model_copy(update={"eps": 0.5})).success[3:].all()


def test_where_memory_runs_out_fewer_images_are_judged_at_a_time() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    scarce = Scarce(detector, most=5)
    assert torch.equal(right_on(scarce, x, y), right_on(detector, x, y))
    assert torch.equal(judged(scarce, x, y, 1 - x, SPEC).nearest, judged(detector, x, y, 1 - x, SPEC).nearest)
    assert max(scarce.asked) == len(x) > 5
