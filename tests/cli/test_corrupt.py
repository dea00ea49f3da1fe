"""``rdf corrupt`` and ``rdf predict --abstain`` as a user types them, on a run of one detector."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from robustbench_df.cli import main
from robustbench_df.pipeline import train_all
from tests.conftest import learnable_set
from tests.runs import settings, write_folder

FEW = ("--corruption", "contrast", "--corruption", "gaussian_noise", "--severity", "2", "--severity", "5", "--n", "12")

Done = tuple[int, str, str]
"""Exit code, stdout and stderr."""
Rdf = Callable[..., Done]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(200), place / "images")
    train_all(settings(source, "models=['mlp']", "ensemble.alpha=0.2"), place / "runs" / "one")
    return place


@pytest.fixture
def rdf(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rdf:
    def call(*arguments: str) -> Done:
        monkeypatch.chdir(place)
        monkeypatch.setattr("sys.argv", ["rdf", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code or 0
        return int(code), *capsys.readouterr()

    return call


def test_it_takes_the_latest_run_prints_tables_and_their_meaning(place: Path, rdf: Rdf) -> None:
    code, out, err = rdf("corrupt", *FEW)
    assert code == 0, err
    assert "using the latest run, runs/one" in err
    for part in ("mlp · base: 12 test images", "◀ ship", "contrast", "gaussian_noise", "clean", "mCE", "threshold gap"):
        assert part in out
    assert "reference: mlp base" in out
    assert all(len(line) <= 160 for line in out.splitlines() if "│" in line)
    assert len(list((place / "runs" / "one" / "corruptions").glob("*.parquet"))) == 2 * (1 + 2 * 2)


def test_every_title_says_before_or_after_calibration(rdf: Rdf) -> None:
    _, out, _ = rdf("corrupt", *FEW, "--quiet")
    titles = [line for line in out.splitlines() if line.startswith(("mlp · ", "ensemble · ", "Errors over"))]
    assert len(titles) == 3
    assert all("after calibration" in title for title in titles)
    assert "before calibration, fitted on clean images" in " ".join(out.split())


def test_it_says_how_the_cells_were_made(rdf: Rdf) -> None:
    _, out, err = rdf("corrupt", *FEW, "--precision", "fp32", "--seed", "3")
    assert "cells in" in err
    assert "outside the forwards" in err
    words = " ".join(out.split())
    assert "Constants: cifar. Seed 3." in words
    assert "Precision: fp32 mlp base, ensemble" in words


def test_where_images_have_groups_whole_groups_are_drawn(place: Path, rdf: Rdf) -> None:
    file = place / "runs" / "one" / "images.parquet"
    known = pd.read_parquet(file)
    try:
        known.assign(group=[f"g{k % 9}" for k in range(len(known))]).to_parquet(file, index=False)
        facts = json.loads(rdf("corrupt", *FEW, "--json")[1])
    finally:
        known.to_parquet(file, index=False)
    methods = {cell[name]["method"] for cell in facts["cells"] for name in ("accuracy", "auc")}
    assert "cluster bootstrap" in methods
    assert "delong" not in methods
    assert {row["accuracy"]["method"] for row in facts["rows"]} <= {"cluster bootstrap", "wilson"}


def test_json_holds_every_cell_and_the_errors_against_the_reference(rdf: Rdf) -> None:
    code, out, err = rdf("corrupt", *FEW, "--reference", "ensemble", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert len(facts["cells"]) == 2 * (1 + 2 * 2)
    for cell in facts["cells"]:
        assert cell["accuracy"]["low"] <= cell["accuracy"]["value"] <= cell["accuracy"]["high"]
        assert cell["accuracy"]["n"] == cell["abstention"]["n"] == 12
        assert 0 <= cell["uncalibrated_accuracy"] <= 1
        assert 0 <= cell["abstention"]["coverage"] <= 1
        assert 0 <= cell["abstention"]["size"] <= 2
    assert facts["abstention_alpha"] == 0.2
    assert facts["reference"].startswith("ensemble ")
    own = next(row for row in facts["errors"] if row["model"] == "ensemble")
    assert own["errors"]["mce"] in (None, pytest.approx(1))
    accuracies = [row["accuracy"]["value"] for row in facts["rows"]]
    assert accuracies == sorted(accuracies)


FGSM = ("attack", "--attack", "fgsm", "--suite", "none", "--eps", "0.05", "--n", "12", "--checks", "none", "--quiet")


@pytest.mark.parametrize("command", [("corrupt", *FEW, "--quiet"), FGSM], ids=["corrupt", "attack"])
def test_a_run_made_in_spite_of_the_audit_is_marked(place: Path, rdf: Rdf, command: tuple[str, ...]) -> None:
    said = "in spite of a failing audit (label-conflicts)"
    assert said not in rdf(*command)[1]
    path = place / "runs" / "one" / "provenance.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"audit": {"found": "1 fail", "allowed": ["label-conflicts"]}}))
    try:
        assert said in " ".join(rdf(*command)[1].split())
        assert json.loads(rdf(*command, "--json")[1])["allowed_findings"] == ["label-conflicts"]
    finally:
        path.write_text(before)


def test_a_run_without_a_band_says_not_run(place: Path, rdf: Rdf) -> None:
    file = place / "runs" / "one" / "ensemble.json"
    kept = file.read_text()
    entry = json.loads(kept)
    for phase in ("base", "final"):
        for fitted in (*entry[phase]["members"].values(), *entry[phase]["ensembles"].values()):
            del fitted["band"]  # as an earlier version wrote it
    file.write_text(json.dumps(entry))
    try:
        _, out, _ = rdf("corrupt", *FEW, "--quiet")
        assert "not run" in out
        code, _, err = rdf("predict", "images", "--abstain")
        assert code == 1
        assert "has no abstention band for 'ensemble'" in err
    finally:
        file.write_text(kept)


def test_a_chain_alone_is_all_that_is_run(rdf: Rdf) -> None:
    code, out, err = rdf("corrupt", "--chain", "resize:0.7|jpeg:75", "--model", "mlp", "--n", "12", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [cell["condition"] for cell in facts["cells"]] == ["clean", "chain resize:0.7|jpeg:75"]
    assert facts["errors"] == []
    _, out, err = rdf("corrupt", "--chain", "resize:0.7|jpeg:75", "--model", "mlp", "--n", "12", "--quiet")
    assert "chain resize:0.7|jpeg:75" in out
    assert err == ""


def test_the_reference_is_run_even_when_not_asked_for(rdf: Rdf) -> None:
    _, out, _ = rdf("corrupt", *FEW, "--model", "ensemble", "--reference", "mlp", "--json")
    assert {cell["model"] for cell in json.loads(out)["cells"]} == {"ensemble", "mlp"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--corruption", "fogg"), 2, "did you mean 'fog'"),
        (("--severity", "6"), 2, "severit"),
        (("--constants", "cifer"), 2, "constants"),
        (("--backend", "imagecoruptions"), 2, "backend"),
        (("--backend", "imagecorruptions"), 2, "32 px a side or more"),
        (("--backend", "imagecorruptions", "--corruption", "web"), 2, "imagecorruptions has no 'web'"),
        (("--chain", "jpegg:75"), 2, "jpegg"),
        (("--chain", "jpeg:0"), 2, "jpeg"),
        (("--model", "resnet"), 2, "no model 'resnet'"),
        (("--reference", "resnet"), 2, "no model 'resnet'"),
        (("--phase", "bsae"), 2, "phase"),
        (("--split", "train"), 2, "--split takes auto, test, oof, cal or val"),
        (("--device", "cuda:9"), 2, "cuda"),
        (("--run", "runs/none"), 1, "not a run folder"),
    ],
)
def test_wrong_usage_is_one_line(rdf: Rdf, options: tuple[str, ...], code: int, message: str) -> None:
    returned, _, err = rdf("corrupt", *options, "--n", "4", "--quiet")
    assert returned == code, err
    assert message in err
    assert err.strip().splitlines()[-1].startswith("rdf: ")


def test_predict_says_what_is_possible_and_how_often_it_abstains(place: Path, rdf: Rdf) -> None:
    code, out, err = rdf("predict", "images", "--abstain", "--form", "csv", "--to", "out", "--quiet")
    assert code == 0, err
    rows = list(csv.DictReader((place / "out" / "predictions.csv").read_text().splitlines()))
    words = [row["possible"] for row in rows]
    assert set(words) <= {"real", "fake", "both", "neither"}
    abstained = sum(word in ("both", "neither") for word in words)
    assert f"{abstained} of them abstained from" in out
    assert "for an error of 20% in either class, fitted on 20 images (cal)" in " ".join(out.split())
    _, out, _ = rdf("predict", "images", "--abstain", "--form", "csv", "--to", "out", "--json")
    assert json.loads(out)["abstained"] == abstained
    code, _, err = rdf("score", "out/predictions.csv", "--truth", "images")  # the column more does no harm
    assert code == 0, err


def test_augment_corruption_is_half_of_the_images(monkeypatch: pytest.MonkeyPatch, rdf: Rdf) -> None:
    seen = []

    def stopped(config: object, *_: object, **__: object) -> None:
        seen.append(config)
        raise SystemExit(3)

    monkeypatch.setattr("robustbench_df.pipeline.train_all", stopped)
    assert rdf("train-all", "--data", "images", "--augment", "corruption")[0] == 3
    assert rdf("train-all", "--data", "images")[0] == 3
    assert [config.augment.corruption for config in seen] == [0.5, 0.0]
    assert seen[0].for_model("resnet_se").augment.corruption == 0.5
    code, _, err = rdf("train-all", "--data", "images", "--augment", "blur")
    assert (code, "unknown augmentation 'blur'" in err) == (2, True)
