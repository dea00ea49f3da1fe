"""Families of corruptions by their effect on an image, and a detector's accuracy under each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robustbench_df.corruption_summary import CLEAN, Score, mean_accuracy
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import estimate, said
from robustbench_df.report.document import Estimate

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "spatter"),
    "light and colour": ("brightness", "contrast", "saturate", "gamma", "grey", "posterise"),
    "compression": ("jpeg_compression", "jpeg_quality", "webp", "double_jpeg", "social_media", "screenshot"),
    "resampling": (
        "pixelate",
        "elastic_transform",
        "resize_nearest",
        "resize_bilinear",
        "resize_bicubic",
        "crop_resize",
    ),
    "overlay": ("text_overlay",),
}
"""Families of corruptions by their effect on an image. The catalogue groups them by where they were published."""

CHAINS = "chains"


def family_of(corruption: str) -> str:
    """Name the family of a corruption; chains of several corruptions form a family of their own."""
    if corruption.startswith("chain "):
        return CHAINS
    return next((family for family, names in FAMILIES.items() if corruption in names), "other")


@dataclass(frozen=True)
class Family:
    """Mean accuracy of a detector over a family's corruptions and severities, all on the same images."""

    name: str
    accuracy: Estimate
    corruptions: tuple[str, ...]


def families(facts: Facts, pair: Pair) -> list[Family]:
    """Average a detector's accuracy over each family, the worst first."""
    found: dict[str, dict[str, list[Score]]] = {}
    for key, score in facts.scores.items():
        if key[:2] == pair and key.corruption != CLEAN:
            own = found.setdefault(family_of(key.corruption), {})
            own.setdefault(key.corruption, []).append(score)
    out = [Family(name, estimate(mean_accuracy(list(own.values()))), tuple(own)) for name, own in found.items()]
    return sorted(out, key=lambda family: (family.accuracy.value or 0.0, family.name))


def worst_family(facts: Facts, pair: Pair) -> str:
    """Say under which family a detector does worst, for the verdict; empty where nothing was run."""
    found = families(facts, pair)
    return (
        f"of the corruptions, {found[0].name} hurts it most and leaves {said(found[0].accuracy)} right" if found else ""
    )
