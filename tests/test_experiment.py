"""The framework of experiments: cells, seeds, resuming, failures; none of them trains anything."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from robustbench_df.errors import UsageError
from robustbench_df.experiment import declared_cells, run_experiment, tasks_of
from robustbench_df.experiment_figure import draw, pareto
from robustbench_df.experiment_folder import find_experiments, open_experiment, question
from robustbench_df.experiment_results import aggregate, in_words, read_json, table_of, to_json
from robustbench_df.metrics.intervals import wilson
from robustbench_df.progress import Reporter
from tests.conftest import Heard, learnable_set
from tests.runs import write_folder

RUN = """
from pathlib import Path
import robustbench_df as rdf

def cells(config):
    return [rdf.Cell(name, {"right": right}) for name, right in config["right_of"].items()]

def measure(cell, lab):
    with Path("calls.txt").open("a") as file:
        file.write(f"{cell.name}{lab.seed} ")
    if cell.name == config_of(lab).get("breaks"):
        raise ZeroDivisionError("by\\nzero")
    return {"accuracy": rdf.wilson(lab.config["right"] + 10 * lab.seed, 100), "images": len(lab.images), "word": "x"}

def config_of(lab):
    return lab.config
"""
CONFIG = "seeds = 3\nright_of = {a = 50, b = 70}\n[quick]\nseeds = 1\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(learnable_set(12), tmp_path / "images")
    write_experiment("toy")
    return tmp_path


def write_experiment(name: str, run: str = RUN, config: str = CONFIG) -> Path:
    folder = Path("experiments") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.py").write_text(run)
    (folder / "config.toml").write_text(config)
    (folder / "README.md").write_text(f"# {name}\n\n**Question.** Does it\nhold?\n\nMore.\n")
    return folder


def run(name: str = "toy", reporter: Reporter | None = None, **options: Any) -> dict[str, Any]:
    done = run_experiment(open_experiment(name), "images", reporter=reporter, **options)
    return read_json(done.out / "results.json")


def calls() -> list[str]:
    return Path("calls.txt").read_text().split()


def test_seeds_are_averaged_and_both_uncertainties_kept_apart(place: Path) -> None:
    results = run()
    value = results["rows"][0]["values"]["accuracy"]
    assert results["rows"][0]["cell"] == "a"
    assert value["value"] == pytest.approx(0.6)
    assert (value["seed_low"], value["seed_high"]) == (0.5, 0.7)
    half = t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (value["t_low"], value["t_high"]) == pytest.approx((0.6 - half, 0.6 + half))
    each = [wilson(k, 100) for k in (50, 60, 70)]
    assert value["low"] == pytest.approx(sum(i.low for i in each) / 3)
    assert (value["n"], value["method"]) == (100, "wilson")
    assert results["rows"][0]["values"]["images"]["value"] == 12


def test_every_first_seed_comes_before_any_second(place: Path) -> None:
    run()
    assert calls() == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_finished_cell_is_not_run_again(place: Path) -> None:
    run(limit=2)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("cells/*.json")}
    assert run(limit=1)["cells_run"] == 3
    results = run()
    assert calls() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert results["cells_run"] == results["cells"] == 6
    text = (place / "reports/experiments/toy/results.json").read_text()
    run()
    assert (place / "reports/experiments/toy/results.json").read_text() == text


def test_a_cell_may_have_seeds_of_its_own(place: Path) -> None:
    body = RUN.replace('{"right": right}) for', '{"right": right}, {"a": 2, "b": 0}[name]) for')
    write_experiment("toy", body, CONFIG.replace("seeds = 3", "seeds = 1"))
    results = run()
    assert calls() == ["a0", "a1"]
    assert table_of(results)[2][1] == "not run"
    run(seeds=1)
    assert calls() == ["a0", "a1"]
    run(seeds=3)  # what is asked for stands over the cell's own number, but nothing runs what cannot be run here
    assert calls() == ["a0", "a1", "a2"]


def test_fresh_runs_all_again(place: Path) -> None:
    run(seeds=1)
    run(seeds=1, fresh=True)
    assert calls() == ["a0", "b0"] * 2


def test_another_device_is_another_cell(place: Path) -> None:
    """Where a GPU is asked for, numbers of a CPU that are there already are no answer."""
    experiment = open_experiment("toy")
    run_experiment(experiment, "images", device="cpu")
    results = read_json(place / "reports/experiments/toy/results.json")
    about = (experiment, declared_cells(experiment), place / "reports/experiments/toy", results["data"]["fingerprint"])
    assert all(task.finished for task in tasks_of(*about, "cpu"))
    assert not any(task.finished for task in tasks_of(*about, "cuda"))
    assert run_experiment(experiment, "images", device="cpu").kept == 6


def test_what_is_about_one_device_runs_there_and_says_so(place: Path) -> None:
    write_experiment("toy", config='device = "cpu"\n' + CONFIG)
    assert len(run(device="auto")["rows"]) == 2
    with pytest.raises(UsageError, match="toy is about cpu alone, not cuda"):
        run(device="cuda")


def test_an_interval_over_seeds_of_a_share_stays_a_share() -> None:
    value = aggregate([to_json({"share": wilson(k, 100)})["share"] for k in (0, 1, 30)])
    assert value["t_low"] == 0 < value["t_high"] <= 1
    assert aggregate([-5.0, 0.0, 9.0])["t_low"] < -5  # a difference may be negative


def test_another_setting_or_other_code_is_another_cell_but_a_comment_is_not(place: Path) -> None:
    run(seeds=1)
    write_experiment("toy", config=CONFIG.replace("a = 50", "a = 51"))
    run(seeds=1)
    assert calls() == ["a0", "b0", "a0", "b0"]  # the config is shared, so both are other cells
    write_experiment("toy", RUN + "# a word\n", CONFIG.replace("a = 50", "a = 51"))
    run(seeds=1)
    assert len(calls()) == 4
    write_experiment("toy", RUN.replace("10 *", "11 *"), CONFIG.replace("a = 50", "a = 51"))
    run(seeds=1)
    assert len(calls()) == 6


ANY_PYTHON = """
class Plain: pass

def cells(config): return [f"{config['name']!r:>{3}} {{}}" for _ in (None, 0, "", 1e-3)]

def measure(cell, lab, /, *, more=None) -> dict: return {}
"""


def test_the_digest_of_code_is_the_same_on_every_version_of_python(place: Path) -> None:
    """Kept results belong to their code wherever the suite runs; 3.12 writes f-strings otherwise and adds fields."""
    assert open_experiment(write_experiment("toy", run=ANY_PYTHON)).source == "1306d88c677aa17e"


def test_cells_of_other_settings_are_not_counted(place: Path) -> None:
    run()
    write_experiment("toy", config=CONFIG.replace("a = 50", "a = 51"))
    results = run(limit=1)
    assert results["cells_run"] == 1
    assert table_of(results)[2][1] == "not run"


def test_a_failing_cell_is_named_and_the_rest_goes_on(place: Path) -> None:
    write_experiment("toy", config='breaks = "a"\n' + CONFIG)
    heard = Heard()
    done = run_experiment(open_experiment("toy"), "images", seeds=2, reporter=heard)
    assert set(done.failed) == {"a, seed 0", "a, seed 1"}
    assert "ZeroDivisionError: by zero (run.py, line" in done.failed["a, seed 0"]
    assert any("cell 'a, seed 0' failed" in text for text in heard.warnings)
    results = read_json(done.out / "results.json")
    assert table_of(results)[1] == ["a", "not run", "not run", "not run"]
    assert results["rows"][1]["values"]["accuracy"]["value"] == pytest.approx(0.75)


def test_quick_results_are_kept_apart_and_take_the_quick_table(place: Path) -> None:
    done = run_experiment(open_experiment("toy", quick=True), "images", quick=True)
    assert done.out == Path("runs/experiments/toy")
    assert read_json(done.out / "results.json")["cells_run"] == 2
    assert not Path("reports").exists()


def test_nothing_written_names_a_folder_of_this_machine(place: Path) -> None:
    done = run_experiment(open_experiment("toy"), str(place / "images"), seeds=1)
    texts = [path.read_text() for path in done.out.rglob("*") if path.is_file()]
    assert len(texts) >= 4
    assert not any(str(place) in text for text in texts)


def test_the_csv_holds_what_the_json_holds(place: Path) -> None:
    results = run()
    lines = list(csv.DictReader(io.StringIO((place / "reports/experiments/toy/results.csv").read_text())))
    accuracy = [line for line in lines if line["metric"] == "accuracy"]
    assert [(line["cell"], line["seeds"]) for line in accuracy] == [("a", "3"), ("b", "3")]
    want = results["rows"][1]["values"]["accuracy"]
    assert float(accuracy[1]["t_high"]) == pytest.approx(want["t_high"], abs=1e-6)


def test_rows_of_a_cell_are_aggregated_by_their_own_names(place: Path) -> None:
    body = 'import robustbench_df as rdf\ncells = lambda config: [rdf.Cell("one")]\n'
    body += 'measure = lambda cell, lab: [{"row": r, "v": lab.seed + k} for k, r in enumerate("xy")]\n'
    write_experiment("rows", body)
    rows = run("rows")["rows"]
    assert [(row["row"], row["values"]["v"]["value"]) for row in rows] == [("x", 1), ("y", 2)]


def test_the_question_is_read_from_the_readme_and_a_miss_gives_the_near_name(place: Path) -> None:
    assert question(find_experiments()["toy"]) == "Does it hold?"
    with pytest.raises(UsageError, match=r"no experiment 'toi' .did you mean 'toy'"):
        open_experiment("toi")


@pytest.mark.parametrize(
    ("run_py", "said"),
    [
        ("cells = lambda c: []", "no function measure"),
        ("cells = lambda c: []\nmeasure = print", "declares no cell"),
        ("import robustbench_df as r\ncells = lambda c: [r.Cell('a b'), r.Cell('a_b')]\nmeasure = print", "twice"),
    ],
)
def test_a_run_py_that_does_not_fit_is_told_so(place: Path, run_py: str, said: str) -> None:
    write_experiment("odd", run_py)
    with pytest.raises(UsageError, match=said):
        run("odd")


def test_an_archive_that_is_not_there_is_asked_for(place: Path) -> None:
    write_experiment("far", config='data = "far.zip"\n')
    with pytest.raises(UsageError, match=r"far is about far.zip: give it with --data"):
        run_experiment(open_experiment("far"))


def test_an_undefined_value_is_never_averaged_over() -> None:
    assert aggregate([0.5, None]) == {"value": None}
    assert in_words(aggregate([0.5, None])) == "undefined"
    assert aggregate(["x", "x", "y"]) == "x / y"
    with pytest.raises(UsageError, match=r"measure.. returned odd="):
        to_json({"odd": object()})  # type: ignore[dict-item]


def test_words_tell_both_uncertainties() -> None:
    seeds = [to_json({"v": wilson(k, 200)})["v"] for k in (180, 190)]
    assert in_words(aggregate(seeds)) == "92.5% [88.1, 95.3] (90.0–95.0)"
    assert in_words(aggregate([3, 3])) == "3"
    assert in_words(aggregate([1.25, 2.5])) == "1.88 (1.25–2.5)"


def test_the_figure_is_the_same_for_the_same_results_and_moves_with_them(place: Path) -> None:
    results = run()
    first = (place / "reports/experiments/toy/figure.svg").read_text()
    assert draw(json.loads(json.dumps(results))) == first
    results["rows"][0]["values"]["accuracy"]["value"] = 0.61
    assert draw(results) != first
    results["config"]["figure"] = {"x": "accuracy", "y": "images"}
    assert "polyline" in draw(results)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    assert pareto([(0, 3), (1, 2), (1, 1), (3, 0), (0, 0)]) == [(0, 3), (1, 2), (3, 0)]
