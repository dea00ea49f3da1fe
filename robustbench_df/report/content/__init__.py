"""From the files of a run to a `Document`: reads them, never the images they are about, and never imports torch."""

from __future__ import annotations

from robustbench_df.report.content.compare import compare_of
from robustbench_df.report.content.front import document_of

__all__ = ["compare_of", "document_of"]
