"""``rdf report`` and ``rdf compare`` as a user types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from robustbench_df.cli import main
from tests.report.runs import write_run


@pytest.fixture(scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_run(place / "runs" / "one", models=("resnet_se",))
    write_run(place / "runs" / "two", models=("resnet_se",), seed=1, extras=False)
    return place


@pytest.fixture
def place(_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs of its own, which is the current one."""
    shutil.copytree(_place / "runs", tmp_path / "runs", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rdf(*arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    before, sys.argv = sys.argv, ["rdf", *arguments]
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    finally:
        sys.argv = before
    return 0


def test_it_takes_the_latest_run_says_so_and_prints_where_the_page_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rdf("report") == 0
    said = capsys.readouterr()
    assert "using the latest run, runs/two" in said.err
    assert "reports/two/index.html" in said.out
    assert "Ship " in said.out
    assert (place / "reports" / "two" / "results.json").is_file()
    assert list((place / "reports" / "two" / "tables").glob("*.csv"))


def test_json_is_the_path_and_the_headline(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rdf("report", "--run", "runs/one", "--out", "here", "--json") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert said.err == ""
    assert facts["report"] == "here/index.html"
    assert facts["bytes"] == (place / "here" / "index.html").stat().st_size
    assert len(facts["verdict"]) == 3
    assert {row["detector"] for row in facts["headline"]} >= {"resnet_se", "ensemble"}
    accuracy = facts["headline"][0]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_runs_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rdf("compare", "runs/one", "runs/two") == 0
    assert "reports/compare-one-two/index.html" in capsys.readouterr().out
    assert (place / "reports" / "compare-one-two" / "index.html").is_file()


def test_the_page_is_opened_and_a_missing_browser_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("PATH", str(place))
    assert rdf("report", "--run", "runs/two", "--open", "--pdf", "--quiet") == 1
    assert opened == [(place / "reports" / "two" / "index.html").as_uri()]
    said = capsys.readouterr().err
    assert "rdf: --pdf needs Chromium" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("report", "--run", "runs/none"), 1, "not a run folder"),
        (("report", "--run", "runs/one", "--out", "runs/one/config.json"), 1, "is a file"),
        (("report", "--run", "runs/one", "--figures", "runs/one/config.json"), 2, "is a file"),
        (("compare", "runs/one"), 2, "two runs or more"),
        (("compare", "runs/one", "runs/none"), 1, "not a run folder"),
    ],
)
def test_mistakes_are_one_line(
    place: Path, arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rdf(*arguments) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_run_of_another_version_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = place / "runs" / "one" / "config.json"
    config.write_text(config.read_text().replace('"schema": 1', '"schema": 99', 1))
    assert rdf("report", "--run", "runs/one") == 1
    assert "schema 99" in capsys.readouterr().err
    assert not (place / "reports").exists()


def test_figures_have_the_names_people_know_and_the_whole_command_never_loads_torch(place: Path) -> None:
    statement = (
        "import sys; from robustbench_df.cli import app; app(['report', '--run', 'runs/one', '--figures', 'f'], "
        "standalone_mode=False); bad = {'torch', 'timm', 'matplotlib.pyplot'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (place / "f").iterdir()}
    for name in ("loss_curve", "accuracy_curve", "resnet_se_base_evaluation", "resnet_se_final_evaluation",
                 "resnet_se_comparison", "resnet_se_adv_BEFORE", "resnet_se_adv_AFTER",
                 "resnet_se_gradcam"):  # fmt: skip
        assert {f"{name}.png", f"{name}.svg"} <= names
