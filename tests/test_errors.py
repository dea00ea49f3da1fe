"""What is made of others' errors."""

from __future__ import annotations

import pytest

from robustbench_df.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"), [("it broke\nin line 3", "it broke"), ("\n  it broke \n", "it broke"), ("", "ValueError")]
)
def test_an_error_is_one_line_and_never_none(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line
