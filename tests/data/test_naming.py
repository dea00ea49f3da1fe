"""What the name of a file says."""

from __future__ import annotations

import pytest

from robustbench_df.data.naming import image_number
from robustbench_df.errors import DataError


@pytest.mark.parametrize(("name", "reason"), [("cat.png", "no number"), ("img_1_of_2.png", "2 numbers")])
def test_names_without_one_number_are_refused(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        image_number(name)


def test_numbers_in_file_names() -> None:
    assert image_number("synergy25/test/007.png") == 7
    assert image_number("img-12.jpeg") == 12
