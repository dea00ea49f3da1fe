"""What the checks of a submission share: the images that it is about, and the form of a finding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustbench_df.audit.finding import AuditFinding, Example, Figure, Severity
from robustbench_df.audit.statistics import Rows
from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.image_tables import Ids
from robustbench_df.matching import Matched, match

_TITLES = {
    "ids": "The submission answers for every image, once",
    "values": "The submission's values are in range and consistent",
    "degenerate": "The submission tells images apart",
    "order": "Each answer stands under its own image",
    "polarity": "Fake means fake in the submission",
}


def image_ids(images: ImageSet, rows: Rows) -> Ids:
    """Return the ids of some images of a set, for `match`."""
    return Ids(images.origin, {"id": tuple(map(str, images.ids[rows]))})


def expected(ids: Ids, images: ImageSet) -> tuple[Rows, Matched]:
    """Find out which images a submission is about: the unlabelled ones, or all.

    Returns:
        their rows in the set, and which of them each row of the submission is about.
    """
    unlabelled = np.flatnonzero(images.labels == UNLABELLED)
    choices = [rows for rows in (unlabelled, np.arange(len(images))) if len(rows)]
    matched = [match(ids, image_ids(images, rows)) for rows in choices]
    # The same choice as in `rdf predict`: the unlabelled images if there are any, unless more names fit all images.
    best = max(range(len(choices)), key=lambda k: (int((matched[k].place >= 0).sum()), -k))
    return choices[best], matched[best]


def finding(
    name: str,
    severity: Severity,
    detail: str,
    figures: dict[str, Figure],
    remedy: str = "",
    images: Sequence[Example] = (),
) -> AuditFinding:
    """Build the finding ``predictions-<name>``; the remedy is kept only for ``warn`` and ``fail``."""
    return AuditFinding(
        id=f"predictions-{name}",
        severity=severity,
        title=_TITLES[name],
        detail=detail,
        figures=figures,
        images=tuple(images),
        remedy=remedy if severity in ("warn", "fail") else "",
    )
