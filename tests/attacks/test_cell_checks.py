"""What finished cells say of each other, on planted accuracies."""

from __future__ import annotations

import pytest

from robustbench_df.attacks.cell_checks import monotone, one_step, overfitting
from robustbench_df.attacks.threat import Threat

NEAR, FAR = Threat("linf", 0.02), Threat("linf", 0.05)


def test_a_gap_between_one_step_and_many_warns_and_names_its_subject() -> None:
    rates = {("fgsm", NEAR): 0.9, ("pgd", NEAR): 0.85, ("fgsm", FAR): 0.8, ("pgd", FAR): 0.1, ("apgd", FAR): 0.7}
    found = one_step(rates)
    assert [(check.about, check.status) for check in found] == [
        (f"pgd, {NEAR}", "pass"),
        (f"pgd, {FAR}", "warn"),
        (f"apgd, {FAR}", "pass"),
    ]
    assert {check.id for check in found} == {"cells-one-step"}
    assert [bool(check.remedy) for check in found] == [False, True, False]
    assert found[1].figures == {"fgsm": 0.8, "pgd": 0.1}
    assert one_step({("fgsm", NEAR): 0.9, ("pgd", FAR): 0.1}) == []  # other threats are not compared


@pytest.mark.parametrize(("farther", "expected"), [(0.5, "pass"), (0.6, "pass"), (0.63, "warn"), (0.7, "fail")])
def test_accuracy_may_not_rise_with_the_budget(farther: float, expected: str) -> None:
    rates = {("pgd", FAR): farther, ("pgd", NEAR): 0.6, ("fgsm", FAR): 0.1, ("pgd", Threat("l2", 0.5)): 1.0}
    (check,) = monotone(rates)  # FGSM and L2 have a budget each
    assert (check.id, check.about, check.status) == ("cells-monotone", "pgd, linf", expected)
    assert bool(check.remedy) == (expected != "pass")
    assert check.detail.startswith("accuracy under pgd by eps: 0.02: 60.0%, 0.05: ")


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [((0.1, 0.8), (0.1, 0.05), "fail"), ((0.1, 0.8), (0.1, 0.7), "pass"), ((0.1, 0.1), (0.1, 0.05), "pass")],
)
def test_phase_two_that_raises_fgsm_alone_is_catastrophic_overfitting(
    fgsm: tuple[float, float], pgd: tuple[float, float], expected: str
) -> None:
    before, after = ({("fgsm", NEAR): fgsm[k], ("pgd", NEAR): pgd[k]} for k in (0, 1))
    (check,) = overfitting(before, after)
    assert (check.id, check.about, check.status) == ("cells-overfitting", f"pgd, {NEAR}", expected)
    assert ("--objective" in check.remedy) == (expected == "fail")
    assert overfitting({}, after) == []
