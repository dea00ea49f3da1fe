"""A made-up document with one of everything and every awkward value, for the tests of the page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from robustbench_df.report.document import (
    Alert,
    Block,
    Column,
    Confusion,
    Curves,
    Document,
    Estimate,
    Gallery,
    Heat,
    Histogram,
    Picture,
    Points,
    Section,
    Series,
    Table,
    Text,
)

NASTY = "<script>alert(1)</script>\"'\u202egnp.exe\n$x_1$"
"""A file name that closes tags and quotes, turns the reading direction, breaks lines and looks like mathematics."""

DETECTORS = ("resnet_se", "efficientnet_b0", "convnext_tiny", "ensemble ◀ ship")


def png(seed: int, size: int = 8) -> bytes:
    """Return a small picture of noise."""
    data = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(data).save(out, "PNG")
    return out.getvalue()


def scores() -> Table:
    """Return a table with estimates, a missing cell, an undefined one and a group."""
    columns = (
        Column("detector", "Detector"),
        Column("phase", "Phase"),
        Column("accuracy", "Accuracy", "percent", "Share of right verdicts, with a Wilson interval.", "higher"),
        Column("auc", "AUC", "number", "Area under the ROC curve.", "higher"),
        Column("parameters", "Parameters", "count", better="lower"),
        Column("size", "Size", "bytes", better="lower"),
        Column("ms", "Time per image", "seconds", better="lower"),
        Column("checks", "Checks", "verdict"),
    )
    words = ("pass", "warn", "fail", None)
    rows = [
        {
            "detector": name,
            "phase": phase,
            "accuracy": Estimate(0.9 + 0.01 * i, 0.88 + 0.01 * i, 0.92 + 0.01 * i, 1234),
            "auc": None if i == 1 else Estimate(None, n=1234) if i == 2 else Estimate(0.981, 0.975, 0.987, 1234),
            "parameters": 11_173_962 // (i + 1),
            "size": 43_200_000 / (i + 1),
            "ms": 0.00312 * (i + 1),
            "checks": words[i],
        }
        for i, name in enumerate(DETECTORS)
        for phase in ("base", "final")
    ]
    return Table("scores", "Detectors on 1,234 test images", columns, rows, "Intervals are 95%.", group="phase")


def names() -> Table:
    """Return a table of names that try to break the page and the spreadsheet."""
    columns = (Column("image", "Image"), Column("count", "Count", "count"))
    odd = (NASTY, "=HYPERLINK(1)", "+1", "-1", "@x", "\ttab", "اسم", "caf\udce9.png", "plain")
    return Table("names", "Names", columns, [{"image": name, "count": i} for i, name in enumerate(odd)])


def many() -> Table:
    """Return a table long enough to be filtered and to scroll."""
    columns = (Column("row", "Row"), Column("value", "Value", "number"))
    return Table("many", "Many rows", columns, [{"row": f"r{i}", "value": (i * 7) % 40 / 3} for i in range(40)])


def roc(scale: str = "linear") -> Curves:
    """Return a ROC curve of every detector."""
    x = np.linspace(0, 1, 101)
    lines = [Series(name, x.tolist(), (x ** (0.05 + 0.04 * i)).tolist()) for i, name in enumerate(DETECTORS)]
    return Curves(
        f"roc-{scale}",
        f"ROC, {scale}",
        "ROC curves of four detectors; all lie far above chance.",
        "false-positive rate",
        "true-positive rate",
        lines,
        x_scale="log" if scale == "log" else "linear",
        diagonal=True,
    )


def epsilon() -> Curves:
    """Return accuracy over the budget, with intervals and a gap."""
    x = (0.0, 0.02, 0.03, 0.05, 0.08)
    y = np.array([0.93, 0.7, 0.55, 0.3, 0.1])
    lines = [
        Series(f"{name}, {word}", x, list(y * share), list(y * share - 0.03), list(y * share + 0.03), dashed=dashed)
        for name in DETECTORS[:2]
        for word, share, dashed in (("before", 0.6, True), ("after", 1.0, False))
    ]
    lines.append(Series("ensemble ◀ ship", x, [0.95, None, 0.6, 0.4, None]))
    alt = "Accuracy falls as the budget grows."
    return Curves("epsilon", "Accuracy over ε", alt, "ε", "accuracy", lines, percent=True, note="Worst case.")


def loss() -> Curves:
    """Return a training curve."""
    epochs = list(range(1, 31))
    lines = [
        Series(word, epochs, [scale / epoch**0.5 for epoch in epochs]) for word, scale in (("train", 1), ("val", 2))
    ]
    return Curves("loss", "Loss", "Loss falls.", "epoch", "loss", lines)


def histogram() -> Histogram:
    """Return two heaps of scores."""
    real, fake = [300, 120, 60, 30, 20, 10, 8, 6, 4, 2], [2, 3, 5, 8, 12, 20, 40, 70, 150, 260]
    edges = np.linspace(0, 1, 11).tolist()
    alt = "Real images score low, fakes high."
    return Histogram("scores-histogram", "Scores", alt, "P(fake)", edges, {"real": real, "fake": fake}, marker=0.43)


def heat() -> Heat:
    """Return a matrix with a missing cell, narrow names."""
    values: list[list[float | None]] = [[0.98 - 0.08 * i - 0.03 * j for j in range(5)] for i in range(4)]
    values[2][3] = None
    rows = ("gaussian_noise", "contrast", "jpeg", "zoom_blur")
    return Heat(
        "heat", "Severity", "Accuracy falls with severity.", rows, ("1", "2", "3", "4", "5"), values, "accuracy"
    )


def wide_heat() -> Heat:
    """Return a matrix of many columns with long names."""
    columns = [f"corruption_{k:02d}_name" for k in range(19)]
    values = [[((i * 19 + j) * 37 % 100) / 100 for j in range(19)] for i in range(4)]
    return Heat("wide-heat", "Corruptions", "Accuracy by corruption.", DETECTORS, columns, values, "accuracy")


def points() -> Points:
    """Return named points, two of them close together and one undefined."""
    x = [Estimate(v, v - 0.01, v + 0.01, 500) for v in (0.93, 0.931, 0.95)] + [Estimate(None)]
    y = [Estimate(v, v - 0.03, v + 0.03, 500) for v in (0.30, 0.31, 0.22)] + [Estimate(0.5)]
    alt = "Clean against robust accuracy."
    return Points("pareto", "Pareto", alt, "clean accuracy", "robust accuracy", DETECTORS, x, y, front=DETECTORS[1:3])


def gallery() -> Gallery:
    """Return pictures in a grid: one twice, one missing, one with an awkward name."""

    def shot(key: str, tone: str, caption: str) -> Picture:
        return Picture(key, caption, f"The picture {key}", tone)  # type: ignore[arg-type]

    rows: list[tuple[str, list[Picture | None]]] = [
        ("real/1.png", [shot("a", "right", "real 98%"), shot("b", "wrong", "fake 71%"), None]),
        (NASTY, [shot("a", "right", "real 98%"), shot("c", "", NASTY), shot("d", "wrong", "fake 99%")]),
    ]
    return Gallery("attacked", "Under attack", ("clean", "ε 0.02", "ε 0.05"), rows, "Dashed: wrong.")


def sample() -> Document:
    """Return the whole document."""
    detectors: list[Block] = [scores(), roc(), roc("log"), histogram(), confusion(), loss(), Text("After the tabs.")]
    return Document(
        title=f"Report of {NASTY}",
        subtitle="1,234 images, three detectors",
        verdict=("Ship the ensemble: 93.0% [91.5, 94.2] of images.", "Trust it on clean images.", "Beware of blur."),
        alerts=(
            Alert("fail", "Copies across the split", "12 test images are in train.", "data"),
            Alert("warn", "No test part", "The numbers are optimistic.", "scores"),
            Alert("info", "Corruptions", "not run", "nowhere"),
        ),
        sections=(
            Section("detectors", "Detectors", "How good each is.", detectors, (("Numbers", 1), ("Curves", 5))),
            Section("attacks", "Attacks", "What an attacker does.", [epsilon(), points(), gallery()]),
            Section("corruptions", "Corruptions", "What the world does.", [heat(), wide_heat()]),
            Section("data", "Data", "", [names(), many(), Text("The end.", "end")]),
        ),
        pictures={key: png(i) for i, key in enumerate("abcd")} | {"unused": png(9)},
        provenance={"command": "rdf train-all --data 'x'", "seed": 0, "versions": {"numpy": "2.4"}},
        exports={"loss_curve": ("loss",), "ensemble_comparison": ("epsilon", "heat", "pareto", "scores-histogram"),
                 "resnet_se_gradcam": ("attacked",)},
    )  # fmt: skip


def confusion() -> Confusion:
    """Return a confusion matrix."""
    return Confusion("confusion", "Confusion", "582 real right, 35 wrong.", [[582, 35], [51, 566]])
