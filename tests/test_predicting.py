"""New images in, files with an answer for each out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_df.pipeline import train_all
from robustbench_df.predicting import PredictPlan, predict_source
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from tests.conftest import learnable_set
from tests.test_pipeline import settings, write_folder


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(120), place / "images")
    return train_all(settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0"), place / "one")


def test_names_without_a_number_get_the_forms_that_need_none(run: Run, tmp_path: Path) -> None:
    write_folder(learnable_set(4), tmp_path / "inbox")
    (tmp_path / "inbox" / "real" / "0.png").rename(tmp_path / "inbox" / "real" / "cat.png")
    heard = Heard()
    made = predict_source(run, str(tmp_path / "inbox"), PredictPlan(model="mlp", phase="base", tta=True), None, heard)
    folder = run.file("submissions", "inbox-mlp-base-tta")
    assert made.files == (folder / "probability.json", folder / "predictions.csv")
    assert any("no challenge files" in text and "cat.png" in text for text in heard.said)
    assert len(json.loads(made.files[0].read_text())) == len(made.verdicts.ids) == 4


def test_a_zip_or_image_lends_its_name_without_the_ending(run: Run, tmp_path: Path) -> None:
    source = write_folder(learnable_set(4), tmp_path / "inbox") / "fake" / "1.png"
    made = predict_source(run, str(source), PredictPlan(forms=("csv",)))
    assert [path.relative_to(run.path).as_posix() for path in made.files] == ["submissions/1-ensemble/predictions.csv"]
    assert made.verdicts.fakes == int(made.verdicts.probability[0] >= run.decision("ensemble").threshold)
    assert (made.refit, made.band, made.findings) == (False, None, 0)


def test_a_folder_of_ones_own_is_not_cleared(run: Run, tmp_path: Path) -> None:
    source = str(write_folder(learnable_set(4), tmp_path / "inbox"))
    predict_source(run, source, PredictPlan(forms=("challenge",)), tmp_path / "out")
    predict_source(run, source, PredictPlan(forms=("csv",)), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"challenge.json", "predictions.csv"}
