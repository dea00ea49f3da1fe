"""The command line as a user meets it: exit codes, one line per mistake, JSON that parses."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from robustbench_df.cli import main
from robustbench_df.models.architectures import MODELS
from tests.conftest import learnable_set
from tests.runs import SMALL, write_folder


def rdf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: starting Python and torch anew takes longer than all the rest."""
    said, complained, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["rdf", *arguments])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), complained.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a trained run under runs/one."""
    place = tmp_path_factory.mktemp("place")
    write_folder(learnable_set(120), place / "images")
    options = [part for o in SMALL for part in ("--set", o)]
    done = rdf("train-all", "--data", "images", "--run", "runs/one", "--json", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "train.json").write_text(done.stdout)
    return place


def test_train_all_reports_json(place: Path) -> None:
    facts = json.loads((place / "train.json").read_text())
    assert facts["run"] == "runs/one"
    assert facts["part"] == "test"
    detectors = {row["detector"] for row in facts["rows"]}
    assert {"resnet_se_small", "mlp", "ensemble-accuracy", "ensemble-stacked"} <= detectors
    assert sum(row["shipped"] for row in facts["rows"]) == 1
    accuracy = facts["rows"][0]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["n"] == 12


def test_predict_takes_the_latest_run_says_so_and_writes_all_forms(place: Path) -> None:
    done = rdf("predict", "images", "--zip", "--tta", "--to", "out", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "latest run" in done.stderr
    assert sorted(p.name for p in (place / "out").iterdir()) == [
        "challenge.json",
        "confidence.json",
        "predictions.csv",
        "probability.json",
        "submission.zip",
    ]
    assert [row["index"] for row in json.loads((place / "out" / "challenge.json").read_text())] == list(range(120))


def test_another_set_of_the_same_name_leaves_no_answers_of_the_former_beside_its_own(place: Path) -> None:
    for folder, n in (("a", 8), ("b", 4)):
        write_folder(learnable_set(n), place / folder / "same")
    assert rdf("predict", "a/same", "--run", "runs/one", "--zip", cwd=place).returncode == 0
    done = rdf("predict", "b/same", "--run", "runs/one", "--form", "csv", "--json", cwd=place)
    (written,) = json.loads(done.stdout)["files"]
    assert [p.name for p in (place / written).parent.iterdir()] == ["predictions.csv"]
    assert len((place / written).read_text().splitlines()) == 1 + 4


def test_quiet_says_nothing_but_results(place: Path) -> None:
    done = rdf("predict", "images", "--quiet", "--form", "csv", cwd=place)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("120 images:")


def test_no_colour_codes_reach_a_pipe(place: Path) -> None:
    for arguments in (("data", "info", "images"), ("--help",)):
        command = [sys.executable, "-m", "robustbench_df", *arguments]
        done = subprocess.run(command, cwd=place, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, check=True)
        assert done.stdout
        assert b"\x1b[" not in done.stdout


def test_data_info(place: Path) -> None:
    done = rdf("data", "info", "images", "--json", cwd=place)
    facts = json.loads(done.stdout)
    assert facts["images"] == 120
    assert facts["classes"] == {"real": 60, "fake": 60, "unlabelled": 0}
    assert facts["sizes"] == {"16×16": 120}
    assert "120 of 16×16" in rdf("data", "info", "images", cwd=place).stdout


def test_data_info_of_mixed_sizes_and_one_class(place: Path) -> None:
    write_folder(learnable_set(6, size=16), place / "mixed")
    write_folder(learnable_set(8, size=24), place / "mixed" / "more")
    facts = json.loads(rdf("data", "info", "mixed", "--json", cwd=place).stdout)
    assert facts["sizes"] == {"24×24": 8, "16×16": 6}
    assert facts["compared_at"] == 64
    done = rdf("train-all", "--data", "mixed", "--run", "runs/mixed", cwd=place)
    assert done.returncode == 1
    assert "--size" in done.stderr
    assert not (place / "runs" / "mixed").exists()  # a source that cannot be used leaves no run behind


def test_data_info_lists_bad_files_however_many_and_sizes_as_they_are_seen(tmp_path: Path) -> None:
    folder = write_folder(learnable_set(4), tmp_path / "odd")
    upright, turned = Image.new("RGB", (12, 16)), Image.Exif()
    turned[0x0112] = 6  # to be turned by 90°
    upright.save(folder / "real" / "upright.jpg")
    upright.save(folder / "real" / "turned.jpg", exif=turned)
    for name in ("a.png", "b.png"):
        (folder / "fake" / name).write_bytes(b"no image")
    assert "did you mean 'folders'" in rdf("data", "info", "odd", "--layout", "folder", cwd=tmp_path).stderr
    facts = json.loads(rdf("data", "info", "odd", "--json", cwd=tmp_path).stdout)
    assert facts["sizes"] == {"16×16": 4, "12×16": 1, "16×12": 1}
    assert facts["finding_counts"] == {"unreadable": 2}


def test_data_info_of_images_that_differ_only_by_their_turn(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 8
    folder = tmp_path / "turned" / "real"
    folder.mkdir(parents=True)
    for name, exif in (("a.jpg", Image.Exif()), ("b.jpg", turned)):
        Image.new("RGB", (12, 16)).save(folder / name, exif=exif)
    done = rdf("data", "info", "turned", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sizes"] == {"12×16": 1, "16×12": 1}


def test_data_info_says_how_often_the_black_box_agrees(tmp_path: Path) -> None:
    write_folder(learnable_set(6), tmp_path / "challenge")
    for word in ("real", "fake"):
        (tmp_path / "challenge" / word).rename(tmp_path / "challenge" / f"{word}_some_images")
    rows = [{"index": k, "prediction": "fake" if k == 0 else "real"} for k in (0, 2)]
    (tmp_path / "challenge" / "real_some_preds.json").write_text(json.dumps(rows))
    said = rdf("data", "info", "challenge", cwd=tmp_path).stdout
    assert "black-box predictions: 1 of 2 agree with the folder (50.0%; real 1 of 2, fake 0 of 0); 4 images" in said


def test_predict_takes_any_size_and_a_folder_of_one_class(place: Path) -> None:
    write_folder(learnable_set(7, size=40), place / "large")
    done = rdf("predict", "large/fake", "--run", "runs/one", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 3
    assert done.stderr == (
        "warning: 3 of 3 images are smaller or larger than those run 'one' learnt from (shorter side mostly 40 px, "
        "learnt 16): scaled to its 16 px, they are something that its detectors have not seen\n"
    )


def test_every_image_of_an_inbox_gets_an_answer_whatever_its_folders_and_files_are_called(place: Path) -> None:
    write_folder(learnable_set(6), place / "inbox")
    (place / "inbox" / "real").rename(place / "inbox" / "original")
    (place / "inbox" / "fake").rename(place / "inbox" / "holiday")
    (place / "inbox" / "sample_submission.csv").write_text("id,label\n1,0\n")
    done = rdf("predict", "inbox", "--run", "runs/one", "--json", cwd=place)
    assert json.loads(done.stdout)["images"] == 6
    assert "read-as-unlabelled: inbox: layout folders leaves out 3 of 6 images; --layout folders" in done.stderr


def test_labelled_images_beside_unlabelled_ones_are_not_passed_over_in_silence(place: Path) -> None:
    write_folder(learnable_set(6), place / "sorted")
    (place / "sorted" / "fake").rename(place / "sorted" / "test")
    done = rdf("predict", "sorted", "--run", "runs/one", "--form", "csv", cwd=place)
    assert done.stdout.startswith("3 images")
    assert "3 labelled images get no answer; --part all answers them too" in done.stderr
    assert "labelled images" not in rdf("predict", "images", "--run", "runs/one", "--form", "csv", cwd=place).stderr


def test_an_unlabelled_manifest_can_be_predicted(place: Path) -> None:
    (place / "list.csv").write_text("path\nimages/real/0.png\nimages/fake/1.png\n")
    done = rdf("predict", "list.csv", "--run", "runs/one", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2


def test_lists(place: Path) -> None:
    listed = rdf("list", "models", cwd=place).stdout
    assert all(name in listed for name in MODELS)
    assert "[seed]" in rdf("list", "presets", cwd=place).stdout
    assert "runs/one  finished" in rdf("list", "runs", cwd=place).stdout


MISTAKES = [
    (("train-all", "--data", "nowhere"), 1, "nowhere"),
    (("train-all", "--data", "images", "--models", "resnet_see"), 1, "did you mean 'resnet_se'"),
    (("train-all", "--data", "images", "--preset", "fulll"), 2, "did you mean 'full'"),
    (("train-all", "--data", "images", "--set", "phase1.lrr=1"), 2, "did you mean 'phase1.lr'"),
    (("train-all", "--data", "images", "--run", "runs/one"), 1, "already holds a run"),
    (("train-all", "--resume", "--run", "runs/one"), 1, "is finished"),
    (("train-all", "--resume", "--run", "runs/two"), 1, "not a run folder"),
    (("train-all", "--data", "images", "--device", "cuda:9"), 2, "cuda"),
    (("train-all", "--data", "images", "--weights", "w.pth"), 2, "--models"),
    (("predict", "nowhere", "--run", "runs/one"), 1, "nowhere"),
    (("predict", "images", "--run", "runs/one", "--model", "resnet"), 2, "no model 'resnet'"),
    (("predict", "images", "--run", "runs/one", "--model", "ensemble-stackd"), 2, "did you mean 'stacked'"),
    (("predict", "images", "--run", "runs/one", "--form", "cvs"), 2, "did you mean 'csv'"),
    (("predict", "images", "--run", "runs/one", "--phase", "finale"), 2, "base or final, not 'finale' (did you mean"),
    (("predict", "images", "--run", "runs/one", "--part", "al"), 2, "did you mean 'all'"),
    (("predict", "images", "--run", "runs/one", "--refit"), 2, "has no refitted detectors"),
    (("train-all", "--data", "images", "--seed", "-1"), 2, "seed: Input should be"),
    (("predict", "images", "--run", "images"), 1, "not a run folder"),
    (("predict", "images", "--run", "runs/one", "--model", "resnet_se_small", "--size", "24", "-q"), 1, "--size 16"),
    (("data", "info", "nowhere"), 1, "nowhere"),
    (("data", "fetch", "cifak"), 2, "did you mean 'cifake'"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_are_one_line_with_their_exit_code(
    place: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = rdf(*arguments, cwd=place)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_wrong_usage_is_exit_two(place: Path) -> None:
    assert rdf("train-all", "--no-such-option", cwd=place).returncode == 2
    assert rdf("no-such-command", cwd=place).returncode == 2


def test_no_run_at_all(tmp_path: Path) -> None:
    write_folder(learnable_set(10), tmp_path / "images")
    done = rdf("predict", "images", cwd=tmp_path)
    assert done.returncode == 1
    assert "make one with: rdf train-all" in done.stderr


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the latter in the C locale
def test_a_terminal_without_our_signs_shows_question_marks(
    place: Path, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdout", ascii_only)
    monkeypatch.setattr(sys, "argv", ["rdf", "data", "info", "images"])
    with pytest.raises(SystemExit) as stop:
        main()
    ascii_only.seek(0)
    assert not stop.value.code
    assert "16?16" in ascii_only.read()


def test_memory_that_runs_out_for_good_is_one_line_and_another_error_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("robustbench_df.pipeline.train_all", fails)
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
    done = rdf("train-all", "--data", "images", cwd=place)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); take smaller images" in done.stderr
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        rdf("train-all", "--data", "images", cwd=place)
