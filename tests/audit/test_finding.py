from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_df.audit.finding import EXAMPLES, Audit, AuditCheck, AuditFinding
from robustbench_df.errors import DataError
from robustbench_df.rundir import write_json


def _finding(**changes: Any) -> AuditFinding:
    fields: dict[str, Any] = {"id": "x", "severity": "pass", "title": "nothing is wrong", "detail": "none of 3"}
    return AuditFinding(**{**fields, **changes})


def test_numpy_scalars_become_plain_and_examples_are_kept_to_the_first() -> None:
    names = tuple(f"{k}.png" for k in range(80))
    finding = _finding(figures={"n": np.int64(3), "share": np.float32(0.5), "kind": "a"}, images=names)
    assert {name: type(value) for name, value in finding.figures.items()} == {"n": int, "share": float, "kind": str}
    assert finding.images == names[:EXAMPLES]


@pytest.mark.parametrize(
    "changes",
    [
        {"severity": "bad"},
        {"detail": ""},
        {"detail": "two\nlines"},
        {"severity": "warn"},
        {"figures": {"a": [1]}},
    ],
)
def test_what_is_no_finding_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        _finding(**changes)


def test_a_check_keeps_its_remedy_only_where_something_is_to_be_done() -> None:
    check = AuditCheck("x", "nothing is wrong")
    assert check.found("warn", "3 of 3", {"n": 3}, ["1.png"], "mend it") == _finding(
        severity="warn", detail="3 of 3", figures={"n": 3}, images=("1.png",), remedy="mend it"
    )
    assert check.found("pass", "none of 3", remedy="mend it") == _finding()


def test_an_audit_survives_a_file(tmp_path: Path) -> None:
    one = _finding(id="a", severity="fail", remedy="mend it", images=(("1.png", "2.png"), "3.png"))
    two = _finding(id="b", figures={"share": math.nan, "n": 0})
    audit = Audit((one, two), origin="set.zip", fingerprint="ab", images=3)
    write_json(tmp_path / "audit.json", audit.to_json())
    back = Audit.from_json(json.loads((tmp_path / "audit.json").read_text()))
    assert back["a"] == one
    assert math.isnan(back["b"].figures["share"])  # type: ignore[arg-type]
    assert (back.origin, back.fingerprint, back.images) == ("set.zip", "ab", 3)
    assert back.severity == "fail"
    assert back.counts() == {"pass": 1, "warn": 0, "fail": 1, "not run": 0}
    assert back.of("fail") == (one,)


def test_the_worst_severity_is_the_audits() -> None:
    assert Audit(()).severity == "not run"
    assert Audit((_finding(severity="not run"),)).severity == "not run"
    assert Audit((_finding(severity="not run"), _finding())).severity == "pass"
    assert Audit((_finding(), _finding(severity="warn", remedy="look"))).severity == "warn"


@pytest.mark.parametrize("raw", [None, [], {}, {"schema": 99}, {"schema": 1}, {"schema": 1, "findings": [{"id": "x"}]}])
def test_what_is_no_audit_is_refused(raw: Any) -> None:
    with pytest.raises(DataError, match="run rdf audit again"):
        Audit.from_json(raw)


def test_an_unknown_finding_is_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match="no finding 'y' in the audit; it has x"):
        Audit((_finding(),))["y"]
