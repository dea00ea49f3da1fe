"""The checks of attacks on the page, also those that a former version of this package wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_df.report.content import document_of
from tests.report.edits import edit_json
from tests.report.test_content_document import alert, table


def test_checks_of_a_former_version_are_shown_under_today_s_names(finished_run: Path) -> None:
    def older(value: dict[str, Any]) -> None:
        former = {"figures": {}, "remedy": "mend it", "about": "linf"}
        (name,) = (name for name in value if name.startswith("ensemble"))
        value[name] = [
            {"id": "pgd: monotone in eps", "status": "pass", "detail": "0.02: 57%", **former},
            {"id": "fgsm: monotone in eps", "status": "warn", "detail": "0.02: 59%", **former},
        ]

    edit_json(finished_run / "attacks" / "checks.json", older)
    document = document_of(finished_run)
    rows = [row for row in table(document, "checks-table").rows if str(row["detector"]).startswith("ensemble")]
    assert [(row["status"], row["check"], row["remedy"]) for row in rows] == [
        ("warn", "cells-monotone", "mend it"),
        ("pass", "cells-monotone", ""),
    ]
    assert "fgsm" in str(rows[0]["detail"])
    assert alert(document, "cells-monotone").severity == "warn"
