"""``rdf explain`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_df.cli import main
from robustbench_df.pipeline import train_all
from tests.conftest import learnable_set
from tests.runs import settings, write_folder

FEW = ("--n", "4", "--measured", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(120), place / "images")
    train_all(settings(source, "models=['resnet_se_small']"), place / "runs" / "one")
    return place


@pytest.fixture
def rdf(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    def call(*options: str) -> tuple[object, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr("sys.argv", ["rdf", "explain", *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        seen = capsys.readouterr()
        return stopped.value.code, seen.out, seen.err

    return call


def test_it_takes_the_latest_run_and_says_what_the_maps_are_worth(place: Path, rdf: object) -> None:
    assert callable(rdf)
    code, out, err = rdf(*FEW)
    assert code == 0, err
    assert "using the latest run, runs/one" in err
    for part in ("gradcam of", "resnet_se_small", "net.stages.0", "8×8", "rank correlation", "extra drop", "ensemble"):
        assert part in out
    code, out, err = rdf(*FEW)
    assert code == 0, err
    assert "nothing to do" in err
    assert (place / "runs" / "one" / "explain" / "explain.json").is_file()


def test_json_is_what_is_written(place: Path, rdf: object) -> None:
    assert callable(rdf)
    code, out, err = rdf(*FEW, "--cam", "layercam", "--eps", "8/255", "--model", "resnet_se_small", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts == json.loads((place / "runs" / "one" / "explain" / "explain.json").read_text())
    assert facts["cam"] == "layercam"
    assert [row["model"] for row in facts["detectors"]] == ["resnet_se_small"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--cam", "gradcan"), 2, "did you mean 'gradcam'"),
        (("--eps", "8"), 2, "8/255"),
        (("--corruption", "fogg"), 2, "did you mean 'fog'"),
        (("--severity", "6"), 2, "severity"),
        (("--model", "resnet"), 2, "no model 'resnet'"),
        (("--phase", "bsae"), 2, "phase"),
        (("--run", "runs/none"), 1, "not a run folder"),
        (("--device", "cuda:9"), 2, "cuda"),
    ],
)
def test_wrong_usage_is_one_line(rdf: object, options: tuple[str, ...], code: int, message: str) -> None:
    assert callable(rdf)
    found, _, err = rdf(*options, *FEW)
    assert found == code, err
    assert message in err
    assert err.strip().splitlines()[-1].startswith("rdf: ")
