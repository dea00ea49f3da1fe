"""Checks that a run keeps: the newest of each counts, whichever version wrote the former."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from robustbench_df.attacks.cell_checks import monotone, one_step, overfitting
from robustbench_df.attacks.kept_checks import in_todays_form, newest
from robustbench_df.attacks.threat import Threat

NEAR, FAR = Threat("linf", 0.02), Threat("linf", 0.05)
RATES = {("fgsm", NEAR): 0.6, ("pgd", NEAR): 0.5, ("fgsm", FAR): 0.4, ("pgd", FAR): 0.3}
FORMER = ["one step against many", "fgsm: monotone in eps", "pgd: monotone in eps", "catastrophic overfitting"]
SUBJECTS = [f"pgd, {FAR}", "linf", "linf", f"pgd, {FAR}"]


def kept(id: str, about: str | None = None, status: str = "fail") -> dict[str, Any]:
    entry = {"id": id, "status": status, "detail": "as it was", "figures": {}, "remedy": "mend it"}
    return entry if about is None else {**entry, "about": about}


def found_now() -> list[dict[str, Any]]:
    return [asdict(check) for check in (*one_step(RATES), *monotone(RATES), *overfitting(RATES, RATES))]


@pytest.mark.parametrize("subjects", [SUBJECTS, [None] * 4])
def test_what_cells_say_now_replaces_what_they_said_under_a_former_name(subjects: list[str | None]) -> None:
    old = {"mlp · base": [kept(id, about) for id, about in zip(FORMER, subjects, strict=True)]}
    out = newest(in_todays_form(old), {"mlp · base": found_now()})["mlp · base"]
    assert sorted(out, key=str) == sorted(found_now(), key=str)


def test_what_is_not_looked_at_again_stays() -> None:
    old = {"mlp · base": [kept("one step against many", f"pgd, {Threat('linf', 0.1)}"), kept("bounds")], "b": []}
    out = newest(in_todays_form(old), {"mlp · base": found_now()})
    assert [check["id"] for check in out["mlp · base"][:2]] == ["cells-one-step", "bounds"]
    assert len(out["mlp · base"]) == len(found_now()) + 2
    assert out["b"] == []


def test_the_newest_counts_per_subject() -> None:
    before = {"a": [kept("bounds", "linf"), kept("bounds", "l2")]}
    (linf, l2) = newest(before, {"a": [kept("bounds", "linf", "pass")]})["a"]
    assert (linf["status"], l2["status"]) == ("pass", "fail")


def test_kept_checks_name_the_attack_and_have_no_remedy_for_what_passed() -> None:
    old = {"a": [kept("pgd: monotone in eps", "l2", "pass"), kept("gradients", None, "warn")]}
    monotone, gradients = in_todays_form(old)["a"]
    assert (monotone["id"], monotone["about"], monotone["remedy"]) == ("cells-monotone", "pgd, l2", "")
    assert monotone["detail"] == "accuracy under pgd by eps: as it was"
    assert gradients == {**kept("gradients", "", "warn")}
    assert in_todays_form(in_todays_form(old)) == in_todays_form(old)
