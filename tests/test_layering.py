"""The user's word stands over the preset's at every level, and the preset's over nothing that was not said."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from robustbench_df.layering import layered

PRESET: dict[str, Any] = {
    "phase1": {"lr": 1.0, "epochs": 60, "image_budget": 500},
    "phase2": {"image_budget": 50},
    "per_model": {
        "one": {"phase1": {"lr": 2.0, "image_budget": 700}, "augment": {"cutout": 0.5}},
        "two": {"model": {"name": "one", "frontend": "rgb"}},
    },
}


def test_a_common_key_of_the_users_takes_the_place_of_the_presets_for_one_model() -> None:
    merged = layered(PRESET, {"phase1": {"lr": 3.0}})
    assert merged["phase1"] == {"lr": 3.0, "epochs": 60, "image_budget": 500}
    assert merged["per_model"]["one"] == {"phase1": {"image_budget": 700}, "augment": {"cutout": 0.5}}
    assert merged["per_model"]["two"] == PRESET["per_model"]["two"]


def test_the_users_own_word_on_one_model_stays() -> None:
    merged = layered(PRESET, {"phase1": {"lr": 3.0}, "per_model": {"one": {"phase1": {"lr": 4.0}}}})
    assert merged["phase1"]["lr"] == 3.0
    assert merged["per_model"]["one"]["phase1"] == {"lr": 4.0, "image_budget": 700}


def test_which_architecture_a_member_is_stays_the_presets() -> None:
    merged = layered(PRESET, {"model": {"name": "mlp", "frontend": "residual"}})
    assert merged["per_model"]["two"]["model"] == {"name": "one"}


def test_nothing_said_changes_nothing_and_nothing_is_changed_in_place() -> None:
    before = copy.deepcopy(PRESET)
    assert layered(PRESET, {}) == layered(PRESET, {"per_model": {}, "phase1": {}}) == before
    own = {"phase1": {"epochs": 3, "lr": 3.0}, "per_model": {"one": {"phase2": {"epochs": 1}}}}
    said = copy.deepcopy(own)
    layered(PRESET, own)["phase1"]["lr"] = 9.0
    assert (before, said) == (PRESET, own)


def budgets(own: dict[str, Any]) -> dict[str, int]:
    """Phase 1's budget of either model, and phase 2's of the first, as `RunConfig.for_model` resolves them."""
    merged = layered(PRESET, own)

    def of(name: str, phase: str) -> int:
        mine = merged["per_model"][name].get(phase, {})
        found: int = mine.get("image_budget", merged[phase]["image_budget"])
        return found

    return {"one": of("one", "phase1"), "two": of("two", "phase1"), "second": of("one", "phase2")}


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ({"phase1": {"epochs": 5}}, {"one": 0, "two": 0, "second": 50}),
        ({"per_model": {"one": {"phase1": {"epochs": 5}}}}, {"one": 0, "two": 500, "second": 50}),
        ({"per_model": {"two": {"phase1": {"epochs": 5}}}}, {"one": 700, "two": 0, "second": 50}),
        ({"phase1": {"epochs": 5, "image_budget": 90}}, {"one": 90, "two": 90, "second": 50}),
        (
            {"phase1": {"image_budget": 90}, "per_model": {"one": {"phase1": {"epochs": 5}}}},
            {"one": 90, "two": 90, "second": 50},
        ),
        (
            {"phase1": {"epochs": 5}, "per_model": {"two": {"phase1": {"image_budget": 90}}}},
            {"one": 0, "two": 90, "second": 50},
        ),
    ],
)
def test_epochs_lift_the_presets_budget_of_their_phase_but_not_the_users(
    own: dict[str, Any], left: dict[str, int]
) -> None:
    assert budgets(own) == left


@pytest.mark.parametrize("own", [{"phase1": 3}, {"per_model": 3}, {"per_model": {"one": 3}}, {"model": "mlp"}])
def test_what_is_no_table_is_left_for_validation_to_refuse(own: dict[str, Any]) -> None:
    (key, value) = next(iter(own.items()))
    merged = layered(PRESET, own)[key]
    assert merged == value or merged["one"] == 3
