"""What is known of one detector's maps over all images: does the map pass, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustbench_df.errors import ModelError
from robustbench_df.explaining import subjects, trust
from robustbench_df.explaining.cams import Maps, blank, cam_maps, randomised
from robustbench_df.explaining.subjects import as_input, bare
from robustbench_df.metrics.intervals import bootstrap
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.layers import FeatureMap

DRAWS = 2
"""Randomised networks per detector and fold: one may by chance look where the trained one does."""


@dataclass(eq=False)
class Gathered:
    """What is known of one detector's maps, fold after fold."""

    layers: list[FeatureMap]
    maps: int = 0
    blank: int = 0
    correlations: list[NDArray[np.floating[Any]]] = field(default_factory=list)
    drops: list[NDArray[np.floating[Any]]] = field(default_factory=list)

    def count(self, maps: Maps) -> NDArray[np.bool_]:
        """Count maps in and return which are blank."""
        mute = blank(maps)
        self.maps, self.blank = self.maps + len(maps), self.blank + int(mute.sum())
        return mute


def measure(
    detector: Deployed,
    pixels: Tensor,
    ids: Tensor,
    into: Gathered,
    *,
    cam: str,
    seed: int = 0,
    fold: int = -1,
    batch: int = 64,
) -> None:
    """Check a detector's maps of images: against those of randomised networks, and by painting over what is hot.

    Args:
        detector: as deployed; each map explains its verdict.
        pixels: uint8 ``[N, 3, H, W]``.
        ids: int64 ``[N]``, keys of the images' own randomness.
        into: where the findings are added.
        fold: which fold's detector it is; others are compared with other randomised networks.
    """
    twins = [randomised(bare(detector), seed, (fold + 1) * DRAWS + draw) for draw in range(DRAWS)]
    for begin in range(0, len(pixels), batch):
        x, keys = as_input(pixels[begin : begin + batch]), ids[begin : begin + batch]
        said = subjects.verdicts(detector, x)
        maps = cam_maps(bare(detector), x, said, cam)
        mute = into.count(maps)
        for twin in twins:
            # Each explains its own verdict: of a class it does not see, a network has often no map at all.
            other = cam_maps(twin, x, subjects.verdicts(twin, x), cam)
            into.correlations.append(trust.rank_correlation(maps, other))
        lit = np.flatnonzero(~mute)
        if len(lit):
            verdict = said.cpu().numpy().astype(np.int8)
            into.drops.append(
                trust.extra_drop(partial(subjects.p_fake, detector), x[lit], maps[lit], verdict[lit], keys[lit], seed)
            )


def summary(name: str, phase: str, found: Gathered, seed: int) -> dict[str, Any]:
    """One detector's entry in ``explain.json``; what is undefined is NaN, which JSON has as null."""
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
        "layer": layers[0] if single else "mean of its members' maps, each by its weight times its P(verdict)",
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
