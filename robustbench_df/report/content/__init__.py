"""Build a `Document` from the files of a run; this package never reads the run's images and never imports torch."""

from __future__ import annotations

from robustbench_df.report.content.compare import compare_of
from robustbench_df.report.content.front import document_of

__all__ = ["compare_of", "document_of"]
