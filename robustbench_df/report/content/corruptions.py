"""Section 4: what is left under corruptions, and whether the ranking or the threshold fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_df import corruption_summary
from robustbench_df.corruption_summary import CLEAN, COMMON, Row
from robustbench_df.errors import DataError
from robustbench_df.metrics.intervals import wilson
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.pieces import Piece, Shelf, Shot, Tab, picture_path, tabbed
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import NOT_APPLICABLE, PHASE_HINT, counted, defined, estimate, label_of, said
from robustbench_df.report.document import Block, Cell, Column, Estimate, Heat, Table, Text

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
"""Corruptions by what they do to an image. The catalogue groups them by where they were published."""

CHAINS = "chains"


def family_of(corruption: str) -> str:
    """Name the family of a corruption; a chain of several is one of its own."""
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
    """Average a detector over each family, the worst first; the interval is that of the number of images."""
    found: dict[str, dict[str, list[float]]] = {}
    for key, score in facts.scores.items():
        if key[:2] == pair and key.corruption != CLEAN:
            own = found.setdefault(family_of(key.corruption), {})
            own.setdefault(key.corruption, []).append(score.accuracy.value)
    n = next((score.accuracy.n for key, score in facts.scores.items() if key[:2] == pair), 0)
    out = []
    for name, by_corruption in found.items():
        means = [sum(values) / len(values) for values in by_corruption.values()]
        mean = sum(means) / len(means)
        # Every cell shows the same images: the mean of shares varies per image by no more than one verdict would.
        ends = estimate(wilson(round(mean * n), n))
        out.append(Family(name, Estimate(mean, ends.low, ends.high, n), tuple(by_corruption)))
    return sorted(out, key=lambda family: (family.accuracy.value or 0.0, family.name))


def corruptions_section(facts: Facts) -> Piece:
    """Build the section."""
    shelf = Shelf()
    gallery = _gallery(facts, shelf)
    images = [Tab("Images", gallery)]
    if not facts.scores:
        text = Text(f"Not run. Make it with: {facts.material.command('corrupt')}")
        return Piece(tabbed("corruptions", "Corruptions", "", [Tab("Numbers", [text]), *images]), shelf.pictures)
    rows = corruption_summary.rows(facts.scores)
    pairs = corruption_summary.detectors(facts.scores)
    clean = next(score for key, score in facts.scores.items() if key.corruption == CLEAN)
    lead = (
        f"Judged as deployed on {counted(clean.accuracy.n, 'image')}, the same under every corruption. A large "
        "threshold gap beside a high AUC: the threshold failed, the ranking stands. A small gap beside a low AUC: the "
        "ranking failed."
    )
    heats: list[Block] = [heat for pair in pairs for heat in _heats(facts, pair)]
    tabs = [
        Tab("Overview", [*_overview(facts, rows, pairs), *_errors(facts), _family_table(facts, pairs)]),
        Tab("By severity", heats),
        Tab("Threshold or ranking", [_table(facts, rows)]),
        *images,
    ]
    return Piece(tabbed("corruptions", "Corruptions", lead, tabs), shelf.pictures)


def _names(facts: Facts) -> list[str]:
    """Corruptions that were run, family by family."""
    run = list(dict.fromkeys(key.corruption for key in facts.scores if key.corruption != CLEAN))
    order = [*FAMILIES, "other", CHAINS]
    return sorted(run, key=lambda name: (order.index(family_of(name)), name))


def _overview(facts: Facts, rows: Sequence[Row], pairs: Sequence[Pair]) -> list[Block]:
    found = {(row.corruption, row.model, row.phase): row for row in rows}
    names = _names(facts)
    columns = [label_of(*pair) for pair in pairs]
    clean = [next(s for k, s in facts.scores.items() if k[:2] == pair and k.corruption == CLEAN) for pair in pairs]
    if not names:
        return []

    def heat(id: str, title: str, label: str, values: list[list[float | None]], own: list[float | None]) -> Heat:
        worst = min(
            ((v, name, column) for name, row in zip(names, values, strict=True)
             for column, v in zip(columns, row, strict=True) if v is not None), default=None)  # fmt: skip
        alt = f"{title}. Lowest: {worst[2]} under {worst[1]}, {worst[0]:.1%}." if worst else title
        return Heat(id, title, alt, [CLEAN, *names], columns, [own, *values], label)

    def of(name: str, attribute: str) -> list[float | None]:
        own = [found.get((name, *pair)) for pair in pairs]
        if attribute == "auc":
            return [defined(row.auc) if row else None for row in own]
        return [row.accuracy.value if row else None for row in own]

    mean = "mean over the severities"
    accuracy = [of(name, "accuracy") for name in names]
    auc = [of(name, "auc") for name in names]
    return [
        heat("corrupted-accuracy", f"Accuracy, {mean}", "accuracy", accuracy, [s.accuracy.value for s in clean]),
        heat("corrupted-auc", f"AUC, {mean}", "AUC", auc, [defined(s.auc.value) for s in clean]),
    ]


def _heats(facts: Facts, pair: Pair) -> list[Heat]:
    """Corruption × severity of one detector, for accuracy and AUC; chains have no severity and stand in the table."""
    cells = {key[2:]: score for key, score in facts.scores.items() if key[:2] == pair and key.severity}
    severities = sorted({severity for _, severity in cells})
    names = [name for name in _names(facts) if any((name, s) in cells for s in severities)]
    if not names:
        return []
    heats = []
    for label in ("accuracy", "AUC"):
        values = [
            [
                None if score is None else defined((score.accuracy if label == "accuracy" else score.auc).value)
                for score in (cells.get((name, severity)) for severity in severities)
            ]
            for name in names
        ]
        lowest = min((v for row in values for v in row if v is not None), default=None)
        heats.append(
            Heat(
                id=f"severity-{label.lower()}-{facts.keys[pair[0]]}-{pair[1]}",
                title=f"{label} of {label_of(*pair)} by severity",
                alt=f"{label} by corruption and severity"
                + (f"; the lowest is {lowest:.1%}." if lowest is not None else ""),
                rows=names,
                columns=[str(severity) for severity in severities],
                values=values,
                label=label,
            )
        )
    return heats


def _errors(facts: Facts) -> list[Block]:
    """Mean error and mCE against the first detector."""
    reference = corruption_summary.detectors(facts.scores)[0]
    try:
        found = corruption_summary.errors(facts.scores, reference)
    except DataError as error:
        return [Text(f"mCE: not run, for not every detector has the same cells ({error}).")]
    if not found:
        return []
    names = corruption_summary.counted(facts.scores)
    which = "the 15 of ImageNet-C" if tuple(names) == COMMON else counted(len(names), "corruption")
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": row.model,
            "phase": row.phase,
            "clean": row.clean_error,
            "mean": row.errors.mean_error,
            "mce": Estimate(defined(row.errors.mce)),
            "relative": Estimate(defined(row.errors.relative_mce)),
        }
        for row in found
    ]
    name = label_of(*reference)
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("clean", "Clean error", "percent", better="lower"),
        Column("mean", "Mean error", "percent", better="lower"),
        Column("mce", "mCE", "percent", f"Errors as a share of those of {name}: 100% is as bad as it.", "lower"),
        Column("relative", "Relative mCE", "percent", "The same for the rise of the errors over clean.", "lower"),
    ]
    note = "Published mCE is relative to AlexNet on ImageNet and cannot be compared."
    if found[0].errors.undefined:
        left = ", ".join(found[0].errors.undefined)
        note += f" Left out of the relative mCE, for they do not hurt the reference: {left}."
    return [Table("mce-table", f"Errors over {which}; reference: {name}", columns, rows, note)]


def _family_table(facts: Facts, pairs: Sequence[Pair]) -> Table:
    by_pair = {pair: {family.name: family for family in families(facts, pair)} for pair in pairs}
    names = [name for name in (*FAMILIES, "other", CHAINS) if any(name in own for own in by_pair.values())]
    rows: list[Mapping[str, Cell]] = [
        {
            "family": name,
            "corruptions": ", ".join(next(own[name].corruptions for own in by_pair.values() if name in own)),
            **{_key(facts, pair): own[name].accuracy if name in own else None for pair, own in by_pair.items()},
        }
        for name in names
    ]
    columns = [
        Column("family", "Family"),
        *(Column(_key(facts, pair), label_of(*pair), "percent", better="higher") for pair in pairs),
        Column("corruptions", "Corruptions"),
    ]
    note = (
        "Means over a family's corruptions, each the mean of its severities. The interval is that of the number of "
        "images."
    )
    return Table("families-table", "Accuracy by family", columns, rows, note)


def _key(facts: Facts, pair: Pair) -> str:
    return f"{facts.keys[pair[0]]}-{pair[1]}"


def _table(facts: Facts, found: Sequence[Row]) -> Table:
    banded = any(row.covered == row.covered for row in found)
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": row.model,
            "phase": row.phase,
            "corruption": row.corruption,
            "family": family_of(row.corruption),
            "accuracy": estimate(row.accuracy),
            "lost": row.lost,
            "auc": Estimate(defined(row.auc)),
            "gap": Estimate(defined(row.threshold_gap)),
            "fails": row.failure or NOT_APPLICABLE,
            "covered": Estimate(defined(row.covered)),
        }
        for row in found
    ]
    clean = [(key, score) for key, score in facts.scores.items() if key.corruption == CLEAN]
    rows += [
        {
            "detector": key.model,
            "phase": key.phase,
            "corruption": CLEAN,
            "family": NOT_APPLICABLE,
            "accuracy": estimate(score.accuracy),
            "lost": 0.0,
            "auc": Estimate(defined(score.auc.value)),
            "gap": Estimate(defined(score.threshold_gap)),
            "fails": NOT_APPLICABLE,
            "covered": Estimate(defined(score.band.coverage) if score.band else None),
        }
        for key, score in clean
    ]
    alpha = facts.material.config.ensemble.alpha
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("corruption", "Corruption"),
        Column("family", "Family"),
        Column("accuracy", "Accuracy", "percent", "Mean over the severities.", "higher"),
        Column("lost", "Lost", "percent", "Points below clean.", "lower"),
        Column("auc", "AUC", "number", better="higher"),
        Column(
            "gap", "Threshold gap", "percent", "What the best threshold for this corruption would win back.", "lower"
        ),
        Column("fails", "What fails", hint="threshold: at least half of the loss comes back with another threshold."),
    ]
    if banded:
        hint = f"Images whose true class the abstention band leaves possible; asked for: {1 - alpha:g}."
        columns.append(Column("covered", "Not excluded", "percent", hint, "higher"))
    note = "The threshold gap is read off these very images, which flatters it: compare it with the clean row's."
    return Table("corruptions-table", "What fails, the threshold or the ranking?", columns, rows, note, "detector")


def _gallery(facts: Facts, shelf: Shelf) -> list[Block]:
    """Every corruption on one image, from `rdf explain`."""
    entries = (facts.material.specimens or {}).get("corruptions", ())
    folder = facts.material.run.file("explain", "pictures")
    severities = sorted({int(e["severity"]) for e in entries})
    rows = []
    for name in dict.fromkeys(str(e["corruption"]) for e in entries):
        by_level = {int(e["severity"]): e for e in entries if e["corruption"] == name}
        shots = [
            Shot(picture_path(folder, str(by_level[s]["picture"])), "", f"{name}, severity {s}")
            if s in by_level
            else None
            for s in severities
        ]
        rows.append((name, shots))
    if not rows:
        return [Text(f"Examples: not run. Make them with: {facts.material.command('explain')}")]
    head = [f"severity {s}" for s in severities]
    gallery = shelf.gallery("corruption-examples", f"Every corruption, on {entries[0]['image_id']}", head, rows)
    return [gallery] if gallery else []


def worst_family(facts: Facts, pair: Pair) -> str:
    """Say under which family a detector does worst, for the verdict; empty where nothing was run."""
    found = families(facts, pair)
    return f"of the corruptions, {found[0].name} hurts it most and leaves {said(found[0].accuracy)}" if found else ""
