"""`AttackSpec`: one with other values is checked like the first."""

from __future__ import annotations

from typing import Any

import pytest

from robustbench_df.attacks.runner import run_sweep
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.errors import UsageError
from tests.attacks.detectors import Linear, images, labels_of

SPEC = AttackSpec(name="pgd", eps=0.1, steps=3, params={"kappa": 1.0})


def test_a_spec_keeps_what_is_not_replaced() -> None:
    other = SPEC.replaced(eps=0.2, norm="l2")
    assert (other.eps, other.norm) == (0.2, "l2")
    assert other.replaced(eps=SPEC.eps, norm=SPEC.norm) == SPEC != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"eps": -1.0}, "eps"), ({"eps": 8.0}, "8/255"), ({"steps": 0}, "steps"), ({"step": 5}, "did you mean 'steps'")],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SPEC.replaced(**changes)
    assert "\n" not in str(caught.value)


def test_a_sweep_refuses_a_budget_before_it_attacks() -> None:
    detector, x = Linear(), images(2)
    told: list[int] = []
    with pytest.raises(UsageError, match="eps"):
        run_sweep(detector, x, labels_of(detector, x), SPEC, [0.1, -0.1], progress=told.append)
    assert not told
