"""``rdf score`` and ``rdf audit --predictions`` read the same in the same file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_df.audit.finding import Audit
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.inference import Verdicts, write_forms
from tests.cli.test_cli import rdf
from tests.conftest import learnable_set
from tests.test_pipeline import write_folder

N = 160
LABELS = np.random.default_rng(2).permutation(np.arange(N) % 2)
P = np.clip(np.random.default_rng(3).normal(0.3 + 0.4 * LABELS, 0.2), 0.01, 0.99).round(6)
"""P(fake) of images 0 to 159 by a detector that is mostly right."""
THRESHOLD = 0.4
NAMES = [f"{k}.png" for k in range(N)]
WORDS = ["fake" if p >= THRESHOLD else "real" for p in P]
CALLED = ["fake" if p >= 0.5 else "real" for p in P]
CONFIDENCE = np.maximum(P, 1 - P)
LISTED = [P[NAMES.index(name)] for name in sorted(NAMES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled ``images`` 0.png to 159.png, their labels in two tables and in ``labelled``, and answers."""
    place = tmp_path_factory.mktemp("place")
    pool = image_set_from_arrays(learnable_set(N).data, LABELS)
    write_folder(pool, place / "labelled")
    (place / "images").mkdir()
    for path in (place / "labelled").rglob("*.png"):
        shutil.copy(path, place / "images")
    for file, labels in (("truth.csv", LABELS), ("turned.csv", 1 - LABELS)):
        (place / file).write_text(table("path,label", NAMES, labels))
    write_forms(Verdicts(tuple(NAMES), P, (P >= THRESHOLD).astype(np.int8)), place, pack=True)
    return place


def table(heading: str, *columns: Any) -> str:
    rows = zip(*columns, strict=True)
    return "\n".join([heading, *(",".join(map(str, row)) for row in rows)]) + "\n"


AGREED = {
    "label and probability": table("filename,label,probability", NAMES, WORDS, P),
    "label and prediction that agree": table("filename,label,prediction", NAMES, CALLED, P),
    "verdicts in figures with a confidence": table(
        "id,prediction,confidence", NAMES, [int(p >= 0.5) for p in P], CONFIDENCE
    ),
    "verdicts in figures": table("id,prediction", NAMES, [int(p >= 0.5) for p in P]),
    "file": table("file,prediction", NAMES, P),
    "image and class": table("image,class", NAMES, WORDS),
    "score": table("name,score", NAMES, P),
    "label as P(fake)": table("filename,label", NAMES, P),
    "object": json.dumps(dict(zip(NAMES, P.tolist(), strict=True))),
    "other ending and folder": table("path,prediction", [f"x/{k}.jpg" for k in range(N)], P),
    "two ids that agree": table("index,filename,prediction", range(N), NAMES, P),
    "an id and a name of something else": table("name,index,prediction", ["cat"] * N, range(N), P),
    "some missing, some unknown": table("index,prediction", range(5, N + 3), [*P[5:], 0.1, 0.2, 0.3]),
    "answered twice": table("index,prediction", [3, 4, *range(N)], [0.01, 0.99, *P]),
    "an empty answer": table("index,prediction", range(N), ["", *P[1:]]),
    "a label against its probability": table("filename,label,probability", NAMES, WORDS[::-1], P),
}

MISORDERED = {
    "positions in an alphabetical listing (10.png": table("index,prediction", range(N), LISTED),
    "positions from 1 in an alphabetical listing": table("index,prediction", range(1, N + 1), LISTED),
    "positions in an alphabetical listing, counted": table("index,prediction", range(30, N + 30), LISTED),
    "names from an alphabetical listing": table("filename,prediction", sorted(NAMES), P),
    "standing one image too late": table("index,prediction", range(1, N + 1), P),
    "positions in order of number": table("index,prediction", range(10, N + 10), P),
}

REFUSED = {
    "label against prediction": table("filename,label,prediction", NAMES, WORDS[::-1], P),
    "path against filename": table("path,filename,prediction", NAMES[::-1], NAMES, P),
    "figure against confidence": table("id,prediction,confidence", NAMES, P, P[::-1]),
    "no id": table("row,prediction", NAMES, P),
    "no answer": table("id,answer", NAMES, P),
    "nothing": "",
    "neither": "[1, 2",
}

FAULTY = {
    "percent": table("index,prediction", range(N), 100 * P),
    "a word": table("index,prediction", range(N), ["maybe", *P[1:]]),
    "a label that is none": table("index,label,probability", range(N), ["maybe", *WORDS[1:]], P),
    "confidence in percent": table("index,label,confidence", range(N), CALLED, 100 * CONFIDENCE),
}


def audit(place: Path, file: str, *options: str) -> Audit:
    done = rdf("audit", "images", "--predictions", file, "--fast", "--json", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    return Audit.from_json(json.loads(done.stdout))


def score(place: Path, file: str, *truth: str) -> dict[str, Any]:
    done = rdf("score", file, *truth, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    scored: dict[str, Any] = json.loads(done.stdout)
    return scored


def both(place: Path, file: str) -> tuple[dict[str, Any], Audit]:
    """What either says, and that it is the same."""
    scored, audited = score(place, file, "--truth", "truth.csv"), audit(place, file, "--truth", "truth.csv")
    compare(scored, audited)
    return scored, audited


def compare(scored: dict[str, Any], audited: Audit) -> None:
    ids, values, order = (audited[f"predictions-{name}"].figures for name in ("ids", "values", "order"))
    assert scored["matched_by"] == ids["matched_by"]
    assert scored["n"] == order["n"]
    assert len(scored["unknown"]) == ids["unknown"]
    assert len(scored["duplicates"]) == ids["twice"]
    assert scored["crossed"] == values["verdict_against_probability"]
    assert scored["differing"] == values["differ_between_files"]
    # The area under verdicts, 0 or 1, is the balanced accuracy.
    area = scored["auc"] or scored["balanced_accuracy"]
    assert area["value"] == pytest.approx(order["written"])
    judged = {"judge", "n", "written", "written_low", "written_high"}
    readings = {name for name in order if name not in judged and not name.endswith(("_low", "_high"))}
    assert len(scored["orders"]) == len(readings)


@pytest.mark.parametrize(
    "file", ["challenge.json", "probability.json", "confidence.json", "predictions.csv", "submission.zip"]
)
def test_on_what_predict_writes(place: Path, file: str) -> None:
    scored, audited = both(place, file)
    assert scored["n"] == N
    assert scored["warnings"] == []
    assert audited["predictions-values"].severity == audited["predictions-order"].severity == "pass"


@pytest.mark.parametrize("what", AGREED)
def test_on_every_spelling(place: Path, what: str) -> None:
    (place / "p.csv").write_text(AGREED[what])
    both(place, "p.csv")


@pytest.mark.parametrize("what", MISORDERED)
def test_on_answers_in_the_wrong_order(place: Path, what: str) -> None:
    (place / "p.csv").write_text(MISORDERED[what])
    scored, audited = both(place, "p.csv")
    assert f"read as {what}" in scored["warnings"][-1]
    assert f"read as {what}" in audited["predictions-order"].detail
    assert audited["predictions-order"].severity == "fail"


@pytest.mark.parametrize("what", REFUSED)
def test_what_one_refuses_the_other_refuses_in_the_same_words(place: Path, what: str) -> None:
    (place / "p.csv").write_text(REFUSED[what])
    scored = rdf("score", "p.csv", "--truth", "truth.csv", cwd=place)
    audited = rdf("audit", "images", "--predictions", "p.csv", "--fast", "--quiet", cwd=place)
    assert scored.returncode == audited.returncode == 1
    assert scored.stderr == audited.stderr
    (line,) = scored.stderr.splitlines()
    assert "'p.csv'" in line


@pytest.mark.parametrize("what", FAULTY)
def test_values_that_cannot_be_scored_fail_the_audit(place: Path, what: str) -> None:
    (place / "p.csv").write_text(FAULTY[what])
    done = rdf("score", "p.csv", "--truth", "truth.csv", cwd=place)
    assert done.returncode == 1
    assert "row 1 of 'p.csv': " in done.stderr
    assert audit(place, "p.csv")["predictions-values"].severity == "fail"


@pytest.mark.parametrize("truth", [("labelled",), ("turned.csv", "--fake-is", "0")])
def test_on_the_truth(place: Path, truth: tuple[str, ...]) -> None:
    expected, _ = both(place, "probability.json")
    scored = score(place, "probability.json", "--truth", *truth)
    audited = audit(place, "probability.json", "--truth", *truth)
    assert scored["auc"] == expected["auc"]
    assert audited["predictions-order"].figures["written"] == pytest.approx(expected["auc"]["value"])
