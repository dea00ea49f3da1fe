"""Checks of one detector's maps over all images: do they pass, and with what uncertainty?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df.errors import ModelError
from robustbench_df.explaining import trust
from robustbench_df.explaining.cams import Maps, blank, randomised
from robustbench_df.explaining.subjects import answers, as_input, looks
from robustbench_df.metrics.intervals import bootstrap
from robustbench_df.metrics.scores import Floats
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.layers import FeatureMap

DRAWS, COMPARED = 2, 16
"""Randomised networks per fold, and images on which each is compared. One network alone could by chance look where the
trained one does."""


@dataclass(eq=False)
class Gathered:
    """Measurements of one detector's maps, collected fold by fold."""

    layers: list[FeatureMap]
    maps: int = 0
    blank: int = 0
    correlations: list[Floats] = field(default_factory=list)
    drops: list[Floats] = field(default_factory=list)

    def count(self, maps: Maps) -> NDArray[np.bool_]:
        """Add maps to the counts and return which are blank."""
        mute = blank(maps)
        self.maps, self.blank = self.maps + len(maps), self.blank + int(mute.sum())
        return mute


def measure(
    team: Mapping[str, Deployed],
    gathered: Mapping[str, Gathered],
    pixels: Tensor,
    ids: Tensor,
    *,
    cam: str,
    seed: int = 0,
    fold: int = -1,
    batch: int = 64,
) -> None:
    """Check maps in two ways: by painting over their hottest pixels, and by comparison with randomised networks.

    Args:
        team: detectors as deployed; each map explains its detector's verdict.
        gathered: the detectors to measure; the measurements are added to their records.
        pixels: uint8 ``[N, 3, H, W]``.
        ids: int64 ``[N]``, keys of the images' own randomness.
        fold: the fold of these detectors, -1: the deployed ones. Each fold has its own randomised networks.
    """
    for begin in range(0, len(pixels), batch):
        x, keys = as_input(pixels[begin : begin + batch]), ids[begin : begin + batch]
        for name, look in looks(team, gathered, x, cam).items():
            lit = ~gathered[name].count(look.maps)
            if lit.any():
                shown = (x[lit], look.maps[lit], look.verdict[lit], keys[lit])
                gathered[name].drops.append(_drop(team[name], seed, *shown))
    if len(pixels):
        some = as_input(pixels[np.linspace(0, len(pixels) - 1, min(COMPARED, len(pixels))).round().astype(np.intp)])
        trained = looks(team, gathered, some, cam)
        for draw in range((fold + 1) * DRAWS, (fold + 2) * DRAWS):
            # One copy of all, so that the randomised ensemble shares the randomised members.
            twins = randomised(nn.ModuleList(team.values()), seed, draw)
            other = looks(dict(zip(team, cast(Iterable[Deployed], twins), strict=True)), gathered, some, cam)
            for name, into in gathered.items():
                into.correlations.append(trust.rank_correlation(trained[name].maps, other[name].maps))


def _drop(detector: Deployed, seed: int, x: Tensor, maps: Maps, verdict: Tensor, ids: Tensor) -> Floats:
    said = verdict.cpu().numpy().astype(np.int8)
    return trust.extra_drop(lambda images: answers(detector, images)[0], x, maps, said, ids, seed)


def summary(name: str, phase: str, found: Gathered, seed: int) -> dict[str, Any]:
    """Return one detector's entry in ``explain.json``; undefined values are NaN, which become null in JSON."""
    layers = list(dict.fromkeys(layer.name for layer in found.layers))
    if found.blank == found.maps:
        raise ModelError(
            f"all {found.maps} maps of {name} at {', '.join(layers)} are zero: no channel there speaks for the "
            "verdict; try --cam layercam"
        )
    single = len(found.layers) == 1
    correlations = np.concatenate(found.correlations)
    defined = correlations[~np.isnan(correlations)]
    correlation = float(defined.mean()) if len(defined) else float("nan")
    drops = np.concatenate(found.drops) if found.drops else np.empty(0)
    value = bootstrap(_mean, drops, np.zeros(len(drops), dtype=np.int64), seed=seed)
    return {
        "model": name,
        "phase": phase,
        "layer": layers[0] if single else "mean of its members' maps, each by what it adds to the verdict",
        "size": [min(layer.size[side] for layer in found.layers) for side in (0, 1)],
        "maps": found.maps,
        "blank": found.blank,
        "sanity": {"correlation": correlation, "passed": bool(correlation < trust.SANE), "n": len(defined)},
        "faithfulness": {
            "name": trust.NAME,
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "n": value.n,
            "meaning": trust.MEANING,
        },
    }


def _mean(values: NDArray[np.floating[Any]], _labels: NDArray[np.integer[Any]]) -> float:
    return float(values.mean()) if len(values) else float("nan")
