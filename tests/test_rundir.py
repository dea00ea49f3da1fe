"""Files are whole or absent, runs are found and locked, and foreign versions refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robustbench_df.config import load_config
from robustbench_df.errors import RunError
from robustbench_df.metrics.intervals import wilson
from robustbench_df.records import Predictions, Result, load_predictions, results_from_json, results_to_json
from robustbench_df.run import open_run
from robustbench_df.rundir import RunDir, create_run, find_run, jsonable, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"value": 1})

    def half(temporary: Path) -> None:
        temporary.write_text("{ half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, half)
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_holds_records_tuples_and_no_nan_at_any_depth() -> None:
    nan = float("nan")
    value = {3: (wilson(0, 0), [nan, np.float64("inf"), 1.5, True, None, "nan"])}
    undefined = {"value": None, "low": None, "high": None, "n": 0, "method": "wilson"}
    assert jsonable(value) == {"3": [undefined, [None, None, 1.5, True, None, "nan"]]}


def test_nan_becomes_null_and_comes_back(tmp_path: Path) -> None:
    nan = float("nan")
    row = Result("m", "final", "clean", "test", "raw", "auc", nan, nan, nan, 3)
    write_json(tmp_path / "r.json", results_to_json([row]))
    assert "NaN" not in (tmp_path / "r.json").read_text()
    (back,) = results_from_json(tmp_path / "r.json")
    assert np.isnan(back.value)
    assert back.n == 3


def test_the_latest_run_is_found_and_named_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="rdf train-all"):
        find_run()
    for k, name in enumerate(("b", "a")):
        run = create_run(load_config("quick"), Path("runs") / name)
        os.utime(run.file("config.json"), (k, k))
    assert find_run().name == "a"
    assert find_run("runs/latest").name == "a"
    assert find_run("b").name == "b"
    assert find_run("runs/b").path == Path("runs/b")
    with pytest.raises(RunError, match="'runs/c' is not a run folder"):
        find_run("runs/c")


def test_a_run_folder_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make the run folder '.*file/run' \(.*\); .* with --run"):
        create_run(load_config("quick"), tmp_path / "file" / "run")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    run = create_run(load_config("quick"), tmp_path / "run")
    raw = json.loads(run.file("config.json").read_text())
    write_json(run.file("config.json"), {**raw, "schema": 99})
    with pytest.raises(RunError, match="schema 99"):
        open_run(run.path)
    run.file("config.json").write_text("[]")
    with pytest.raises(RunError, match="holds no settings"):
        open_run(run.path)
    run.file("config.json").write_text("{ half")
    with pytest.raises(RunError, match="damaged"):
        open_run(run.path)


def test_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    run = open_run(create_run(load_config("quick"), tmp_path / "run").path)
    write_json(run.file("ensemble.json"), {"base": {"ensembles": {}}})
    with pytest.raises(RunError, match=r"ensemble.json' is damaged: it has no shipped"):
        run.decision()
    with pytest.raises(RunError, match=r"damaged: it has no base.members.resnet_se"):
        run.decision("resnet_se", "base")
    for name, read in (("split.parquet", lambda: run.folds), ("images.parquet", lambda: run.groups)):
        run.file(name).write_bytes(b"PAR1 half")
        with pytest.raises(RunError, match=rf"{name}' is damaged"):
            read()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    code = (
        "import sys, time; from pathlib import Path; from robustbench_df.rundir import RunDir\n"
        f"with RunDir(Path({str(run.path)!r})).lock():\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(RunError, match=f"process {holder.pid}"), run.lock():
        pass
    holder.kill()
    holder.communicate()
    with run.lock():
        pass


def table(fingerprint: str = "abc") -> Predictions:
    frame = pd.DataFrame(
        {
            "model": ["m"] * 2,
            "phase": "final",
            "condition": "clean",
            "image_id": ["2.png", "10.png"],
            "label": np.array([0, 1], np.int8),
            "part": ["val", "test"],
            "fold": np.array([-1, -1], np.int16),
            "logit_real": np.array([0.5, -1.0], np.float32),
            "logit_fake": np.array([-0.5, 1.0], np.float32),
        }
    )
    return Predictions(frame, fingerprint)


def test_the_litter_of_the_dead_is_swept_up_and_that_of_the_living_is_not(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / "attacks" / f".cell.parquet.{int(ended.stdout)}.tmp"
    living = tmp_path / f".results.json.{os.getpid()}.tmp"
    dead.parent.mkdir()
    dead.touch()
    living.touch()
    with RunDir(tmp_path).lock():
        assert living.exists()
        assert not dead.exists()


def test_predictions_survive_disk_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table().save(path)
    back = load_predictions(path, "abc")
    assert back.table.equals(table().table)
    assert back.part("test").table["image_id"].tolist() == ["10.png"]
    with pytest.raises(RunError, match="other images"):
        load_predictions(path, "xyz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot read predictions"):
        load_predictions(path)
    with pytest.raises(RunError, match="lacks the column 'fold'"):
        Predictions(table().table.drop(columns="fold"), "")
