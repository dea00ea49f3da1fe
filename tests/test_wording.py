"""Numbers and names in words."""

from __future__ import annotations

import math

from robustbench_df.wording import counted, figure, interval, listed


def test_names_are_listed_up_to_a_number() -> None:
    assert listed(["a", "b", "c", "d", "e"], 2) == "a, b and 3 more"
    assert listed(map(str, range(2000)), 1) == "0 and 1,999 more"
    assert listed(["a"]) == "a"


def test_things_are_counted_in_singular_and_plural() -> None:
    assert counted(1, "image") == "1 image"
    assert counted(2400, "image") == "2,400 images"
    assert counted(0, "try", "tries") == "0 tries"


def test_an_interval_stands_behind_its_value_where_it_is_known() -> None:
    assert interval(0.951, 0.94, 0.96, ".3f") == "0.951 [0.940, 0.960]"
    assert interval(0.9512, 0.94, 0.96, ".4f", ends=".2f") == "0.9512 [0.94, 0.96]"
    assert interval(0.951, math.nan, math.nan, ".1%") == "95.1%"
    assert interval(math.nan, 0.9, 1.0, ".1%") == interval(None, None, None, ".1%") == "undefined"
    assert figure(None, ".1f") == figure(math.nan, ".1f") == "undefined"
