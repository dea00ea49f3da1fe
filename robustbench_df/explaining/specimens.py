"""Images that illustrate the numbers: examples, the hardest, the most disputed, every corruption, attacks by eps.

`described`, `corrupted` and `attacked` return entries of lists in ``specimens.json``; their pictures are stored in the
run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch import Tensor

from robustbench_df.attacks.fgsm import input_gradient
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.explaining.subjects import Clean, answers, as_input, as_pixels, some
from robustbench_df.metrics.hardness import disputed, hardest
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import frozen
from robustbench_df.robustness import Index
from robustbench_df.run import Run

Entries = list[dict[str, Any]]
Keep = Callable[[Tensor], list[str]]
"""A function that stores uint8 images ``[N, 3, H, W]`` and returns their keys."""

EPSILONS = (0.0, 0.02, 0.03, 0.05, 0.08)
"""0 (clean) and the budgets of phase 2's recipe, L∞ in pixels of [0, 1]."""

SEVERITIES = (1, 3, 5)

MOST_ATTACKED = 80
"""Most pictures in the attacked grid; with many detectors it has fewer images."""


def telling(judged: Clean, count: int) -> dict[str, Index]:
    """Rows of at most ``count`` images per list: examples of the data, the hardest, and the most disputed.

    The ensemble does not count in what is hard or disputed, because it consists of the detectors.
    """
    p_fake, verdict = judged.p_fake[:-1], judged.verdict[:-1]
    return {
        "examples": some(np.arange(len(judged.ids)), count, judged.labels),
        "hardest": hardest(p_fake, verdict, judged.labels)[:count],
        "disagreed": disputed(p_fake, verdict)[:count],
    }


def described(judged: Clean, rows: Index, keys: Sequence[str]) -> Entries:
    """Return entries with the detectors that err, including the ensemble, and the P(fake) of each."""
    return [
        {
            "image_id": str(judged.ids[row]),
            "label": int(judged.labels[row]),
            "picture": key,
            "wrong_by": [name for name, right in zip(judged.names, judged.right[:, row], strict=True) if not right],
            "p_fake": {name: float(p) for name, p in zip(judged.names, judged.p_fake[:, row], strict=True)},
        }
        for row, key in zip(rows.tolist(), keys, strict=True)
    ]


def corruptions_of(run: Run) -> list[str]:
    """Names of the corruptions that the run was judged under, in the catalogue's order; if none, the benchmark's 19."""
    found = set()
    for path in run.path.glob("corruptions/*.parquet"):
        notes = (pq.read_schema(path).metadata or {}).get(b"rdf_notes", b"{}")
        found.add(json.loads(notes).get("corruption"))
    names = [name for name in CORRUPTIONS if name in found]
    return names or [name for name in CORRUPTIONS if CORRUPTIONS[name].group != "web"]


def corrupted(names: Sequence[str], image_id: str, pixels: Tensor, ids: Tensor, seed: int, keep: Keep) -> Entries:
    """One image, uint8 ``[1, 3, H, W]``, under each corruption at `SEVERITIES`."""
    return [
        {"corruption": name, "severity": level, "image_id": image_id, "picture": key}
        for name in names
        for level in SEVERITIES
        for key in keep(corrupt(pixels, name, level, ids=ids, seed=seed))
    ]


def attacked_rows(clean: Clean, detectors: int, count: int) -> Index:
    """Rows for the attacked grid, among the images that the most detectors get right (all of them, if possible)."""
    count = max(min(count, MOST_ATTACKED // (1 + (len(EPSILONS) - 1) * detectors)), 1) if count else 0
    votes = clean.right.sum(0)
    best = np.flatnonzero(votes == votes.max(initial=0))
    return some(best, count, clean.labels)


def attacked(
    team: Mapping[str, Deployed], phase: str, image_ids: Sequence[str], pixels: Tensor, y: Tensor, keep: Keep
) -> Entries:
    """Images uint8 ``[N, 3, H, W]`` under FGSM on each detector at `EPSILONS`, with P(fake) of the images as shown."""
    x, entries = as_input(pixels), []
    for name, detector in team.items():
        with frozen(detector):
            direction = input_gradient(detector, x, y).sign()  # the FGSM direction does not depend on eps
        for eps in EPSILONS:
            shown = as_pixels(x + eps * direction)
            for image_id, label, p, key in zip(
                image_ids, y.tolist(), answers(detector, as_input(shown)), keep(shown), strict=True
            ):
                entries.append(
                    {
                        "image_id": image_id,
                        "label": label,
                        "model": name,
                        "phase": phase,
                        "attack": "fgsm",
                        "eps": eps,
                        "p_fake": float(p),
                        "picture": key,
                    }
                )
    return entries
