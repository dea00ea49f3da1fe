"""Settings are checked in one line and merged table by table."""

from __future__ import annotations

import shlex

import pytest

from robustbench_df.errors import UsageError
from robustbench_df.settings import (
    Count,
    Fraction,
    Settings,
    known_keys,
    merge,
    override_key,
    parse_override,
    validated,
)


class Inner(Settings):
    share: Fraction = 0.5


class Outer(Settings):
    n: Count = 3
    inner: Inner = Inner()


def test_every_dotted_key_is_known_and_hinted_at() -> None:
    assert known_keys(Outer) == ["n", "inner", "inner.share"]
    with pytest.raises(UsageError, match=r"unknown setting 'inner\.shore'.*inner\.share"):
        validated(Outer, {"inner": {"shore": 0.1}})
    with pytest.raises(UsageError, match=r"^inner\.share: Input should be less than or equal to 1$"):
        validated(Outer, {"inner": {"share": 2}})


def test_merging_keeps_what_the_new_table_does_not_name_and_takes_no_reference() -> None:
    new = {"a": {"y": 2}, "c": {"z": 3}}
    merged = merge({"a": {"x": 1}, "b": 1}, new)
    assert merged == {"a": {"x": 1, "y": 2}, "b": 1, "c": {"z": 3}}
    merged["c"]["z"] = 4
    assert new["c"]["z"] == 3


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("a.b=3e-4", {"a": {"b": 3e-4}}),
        ("a=word", {"a": "word"}),
        ('a = ["x"]', {"a": ["x"]}),
        ("a=b=c", {"a": "b=c"}),
        ('a."t:x.in1k".n=1', {"a": {"t:x.in1k": {"n": 1}}}),
        ("a.'t:x.in1k'.n=1", {"a": {"t:x.in1k": {"n": 1}}}),
    ],
)
def test_an_override_is_toml_or_a_bare_word(text: str, nested: dict[str, object]) -> None:
    assert parse_override(text) == nested


def test_a_key_that_is_told_reads_back_from_a_shell() -> None:
    (key,) = shlex.split(override_key("per_model", "timm:vgg11.tv_in1k", "dropout"))
    assert parse_override(f"{key}=1") == {"per_model": {"timm:vgg11.tv_in1k": {"dropout": 1}}}
    assert override_key("model", "dropout") == "model.dropout"


@pytest.mark.parametrize("text", ["a", "=3", " =3", "a..b=3", '"a.b=3', 'a"b".c=3', ".a=3"])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_override(text)
