"""``rdf corrupt`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import SMALL, rdf
from tests.conftest import learnable_set
from tests.test_pipeline import write_folder

FEW = ("--corruption", "contrast", "--corruption", "gaussian_noise", "--severity", "2", "--severity", "5", "--n", "12")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_folder(learnable_set(120), place / "images")
    options = [part for o in (*SMALL, "models=['mlp']") for part in ("--set", o)]
    done = rdf("train-all", "--data", "images", "--run", "runs/one", "--quiet", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def test_it_takes_the_latest_run_prints_tables_and_their_meaning(place: Path) -> None:
    done = rdf("corrupt", *FEW, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "using the latest run, runs/one" in done.stderr
    for part in ("mlp · base: 12 test images", "◀ ship", "contrast", "gaussian_noise", "clean", "mCE", "threshold gap"):
        assert part in done.stdout
    assert "reference: mlp base" in done.stdout
    assert all(len(line) <= 160 for line in done.stdout.splitlines() if "│" in line)
    assert len(list((place / "runs" / "one" / "corruptions").glob("*.parquet"))) == 2 * (1 + 2 * 2)


def test_json_holds_every_cell_and_the_errors_against_the_reference(place: Path) -> None:
    done = rdf("corrupt", *FEW, "--reference", "ensemble", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert len(facts["cells"]) == 2 * (1 + 2 * 2)
    for cell in facts["cells"]:
        assert cell["accuracy"]["low"] <= cell["accuracy"]["value"] <= cell["accuracy"]["high"]
        assert cell["accuracy"]["n"] == 12
    assert facts["reference"].startswith("ensemble ")
    own = next(row for row in facts["errors"] if row["model"] == "ensemble")
    assert own["errors"]["mce"] in (None, pytest.approx(1))
    accuracies = [row["accuracy"]["value"] for row in facts["rows"]]
    assert accuracies == sorted(accuracies)


def test_a_chain_alone_is_all_that_is_run(place: Path) -> None:
    done = rdf("corrupt", "--chain", "resize:0.7|jpeg:75", "--model", "mlp", "--n", "12", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [cell["condition"] for cell in facts["cells"]] == ["clean", "chain resize:0.7|jpeg:75"]
    assert facts["errors"] == []
    table = rdf("corrupt", "--chain", "resize:0.7|jpeg:75", "--model", "mlp", "--n", "12", "--quiet", cwd=place)
    assert "chain resize:0.7|jpeg:75" in table.stdout
    assert table.stderr == ""


def test_the_reference_is_run_even_when_not_asked_for(place: Path) -> None:
    done = rdf("corrupt", *FEW, "--model", "ensemble", "--reference", "mlp", "--json", cwd=place)
    assert {cell["model"] for cell in json.loads(done.stdout)["cells"]} == {"ensemble", "mlp"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--corruption", "fogg"), 2, "did you mean 'fog'"),
        (("--severity", "6"), 2, "severit"),
        (("--constants", "cifer"), 2, "constants"),
        (("--chain", "jpegg:75"), 2, "jpegg"),
        (("--chain", "jpeg:0"), 2, "jpeg"),
        (("--model", "resnet"), 2, "no model 'resnet'"),
        (("--reference", "resnet"), 2, "no model 'resnet'"),
        (("--split", "train"), 2, "part"),
        (("--device", "cuda:9"), 2, "cuda"),
        (("--run", "runs/none"), 1, "not a run folder"),
    ],
)
def test_wrong_usage_is_one_line(place: Path, options: tuple[str, ...], code: int, message: str) -> None:
    done = rdf("corrupt", *options, "--n", "4", "--quiet", cwd=place)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("rdf: ")
    assert "Traceback" not in done.stderr
