"""Small rules that a whole report would hide."""

from __future__ import annotations

from robustbench_df.report.content.families import CHAINS, family_of
from robustbench_df.report.content.words import keys_of, pixels


def test_names_that_look_alike_in_a_file_name_get_ids_of_their_own() -> None:
    keys = keys_of(["timm:a/b", "timm:a-b", "TIMM-A-B", "<script>", ""])
    assert len({key.lower() for key in keys.values()}) == 5
    assert all(key.isascii() and "<" not in key and "/" not in key and key for key in keys.values())


def test_budgets_are_written_both_ways() -> None:
    assert pixels(0.05) == "0.05 (12.75/255)"


def test_every_corruption_of_the_catalogue_has_a_family() -> None:
    from robustbench_df.corruptions.catalogue import CORRUPTIONS

    assert {name for name in CORRUPTIONS if family_of(name) == "other"} == set()
    assert family_of("chain resize:0.7|jpeg:75") == CHAINS
