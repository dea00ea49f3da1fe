"""``rdf attack`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from robustbench_df.cli import main
from tests.cli.test_cli import SMALL, rdf
from tests.conftest import learnable_set
from tests.runs import write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_folder(learnable_set(120), place / "images")
    options = [part for o in (*SMALL, "models=['mlp']") for part in ("--set", o)]
    done = rdf("train-all", "--data", "images", "--run", "runs/one", "--quiet", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "blackbox.py").write_text(
        "import numpy as np\n"
        "def brightness(x):\n"
        "    return 1 / (1 + np.exp(-40 * (x.mean((1, 2, 3)) - 0.5)))\n"
        "def wrong(x):\n"
        "    return np.full(len(x), 2.0)\n"
    )
    return place


def test_with_no_more_than_eps_it_takes_the_latest_run_and_says_so(place: Path) -> None:
    done = rdf("attack", "--eps", "0.05", "--n", "12", "--checks", "none", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "using the latest run, runs/one" in done.stderr
    assert "0.05 (12.75/255)" in done.stdout
    assert "mlp" in done.stdout
    assert "ensemble ◀ ship" in done.stdout
    assert len(list((place / "runs" / "one" / "attacks").glob("*.parquet"))) == 2 * 2 * 2


def test_a_budget_of_zero_is_the_clean_accuracy(place: Path) -> None:
    done = rdf("attack", "--eps", "0", "--n", "8", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    for cell in json.loads(done.stdout)["cells"]:
        assert cell["accuracy"]["value"] == cell["clean_accuracy"]["value"]


def test_json_holds_every_cell_with_its_interval(place: Path) -> None:
    options = ("--eps", "8/255", "--attack", "pgd", "--param", "steps=3", "--model", "mlp", "--phase", "base")
    done = rdf("attack", *options, "--n", "12", "--checks", "none", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["attack"] == "pgd"
    assert cell["eps"] == pytest.approx(8 / 255)
    assert cell["accuracy"]["low"] <= cell["accuracy"]["value"] <= cell["accuracy"]["high"]
    assert cell["forwards"] <= 4


def test_where_images_have_groups_whole_groups_are_drawn_and_the_page_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    options = ("--eps", "0.05", "--suite", "none", "--attack", "fgsm", "--phase", "base", "--n", "12")
    monkeypatch.setattr("sys.argv", ["rdf", "attack", *options, "--checks", "none"])
    file = place / "runs" / "one" / "images.parquet"
    known = pd.read_parquet(file)

    def said() -> str:
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    assert "Interval of the accuracy under attack: Wilson." in said()
    try:
        known.assign(group=[f"g{k % 9}" for k in range(len(known))]).to_parquet(file, index=False)
        assert "a bootstrap of whole groups" in said()
    finally:
        known.to_parquet(file, index=False)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--eps", "-1"), 2, "eps"),
        (("--eps", "8"), 2, "8/255"),
        (("--eps", "x"), 2, "--eps takes a number"),
        (("--attack", "pdg"), 2, "did you mean 'pgd'"),
        (("--suite", "standart"), 2, "unknown suite"),
        (("--norm", "l3"), 2, "unknown norm"),
        (("--model", "resnet"), 2, "no model 'resnet'"),
        (("--param", "steps=3"), 2, "--attack"),
        (("--run", "runs/none"), 1, "not a run folder"),
        (("--attack", "pgd", "--param", "stepz=3"), 2, "stepz"),
        (("--attack", "fgsm", "--param", "steps=9"), 2, "fgsm knows no 'steps'"),
        (("--attack", "pgd", "--param", "steps=x"), 2, "steps: Input should be a valid integer"),
        (("--phase", "bsae"), 2, "base, final or both"),
        (("--split", "tset"), 2, "--split takes"),
        (("--rate", "5"), 2, "--detector"),
        (("--queries", "5"), 2, "--attack"),
        (("--detector", "python:blackbox:brightness", "--data", "images", "--attack", "fgsm"), 2, "gradient"),
        (("--detector", "python:blackbox:brightness", "--data", "images", "--suite", "quick"), 2, "suite"),
    ],
)
def test_wrong_usage_is_one_line(
    place: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["rdf", "attack", *options, "--n", "4", "--checks", "none"])
    with pytest.raises(SystemExit) as stopped:
        main()
    seen = capsys.readouterr().err
    assert stopped.value.code == code, seen
    assert message in seen
    assert seen.strip().splitlines()[-1].startswith("rdf: ")


def test_a_black_box_is_attacked_by_its_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--detector", "python:blackbox:brightness", "--data", "images", "--eps", "0.2", "--queries", "30")
    done = rdf("attack", *options, "--n", "10", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {row["attack"] for row in facts["attacks"]} >= {"square"}
    assert all(row["questions_per_image"] <= 30 for row in facts["attacks"])
    again = json.loads(rdf("attack", *options, "--n", "10", "--quiet", cwd=place).stdout)
    assert again["asked"] == 0  # every answer was in the log
    assert again["attacks"] == facts["attacks"]
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["rdf", "attack", *options, "--eps", "0.1", "--n", "10", "--quiet"])
    with pytest.raises(SystemExit):
        main()
    more = json.loads(capsys.readouterr().out)
    kept = json.loads(Path(place, more["log"]).with_name("result.json").read_text())["attacks"]
    assert len({(row["attack"], row["threat"]) for row in kept}) == len(kept) == 2 * len(facts["attacks"])
    done = rdf("attack", "--detector", "python:blackbox:wrong", "--data", "images", "--n", "4", cwd=place)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
