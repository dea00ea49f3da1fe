"""What is made of others' errors."""

from __future__ import annotations

import pytest

from robustbench_df.errors import first_line, kind_and_line


@pytest.mark.parametrize(
    ("message", "line"), [("it broke\nin line 3", "it broke"), ("\n  it broke \n", "it broke"), ("", "ValueError")]
)
def test_an_error_is_one_line_and_never_none(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_the_kind_of_an_error_is_said_once() -> None:
    assert kind_and_line(KeyError("net")) == "KeyError: 'net'"
    assert kind_and_line(ValueError("")) == "ValueError"
