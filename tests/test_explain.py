"""`explain`: the contract of its files, each image against detectors that have not seen it, nothing computed twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustbench_df import explain as module
from robustbench_df.errors import ModelError, RunError, UsageError
from robustbench_df.explain import ExplainPlan, explain
from robustbench_df.explaining import subjects
from robustbench_df.explaining.cams import verdict_maps
from robustbench_df.explaining.pictures import keys_in
from robustbench_df.explaining.specimens import EPSILONS, SEVERITIES
from robustbench_df.metrics.scores import margins
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from tests.conftest import Heard, learnable_set
from tests.runs import settings, write_folder

PLAN = ExplainPlan(images=8, measured=12, specimens=4, batch=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    folder = tmp_path_factory.mktemp("runs")
    models = {1: "['resnet_se_small', 'mlp']", 2: "['resnet_se_small']"}
    return {k: train_all(settings(source, f"models={models[k]}", f"split.folds={k}"), folder / f"{k}") for k in models}


def specimens_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.read_json("explain", "specimens.json")
    return found


@pytest.mark.parametrize("folds", [1, 2])
def test_the_files_keep_their_contract(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    explained = explain(run, PLAN)
    assert run.read_json("explain", "explain.json") == json.loads(json.dumps(explained).replace("NaN", "null"))
    assert (explained["schema"], explained["fingerprint"], explained["cam"]) == (1, run.fingerprint, "gradcam")
    assert explained["part"] == ("test" if folds == 1 else "oof")
    names = ["resnet_se_small"] if folds == 1 else ["resnet_se_small", "ensemble"]
    assert [row["model"] for row in explained["detectors"]] == names
    for row in explained["detectors"]:
        assert row["layer"] == "net.stages.0"
        assert row["size"] == [8, 8]
        assert row["maps"] == len(explained["images"]) + PLAN.measured
        assert 0 <= row["blank"] < row["maps"]
        assert row["sanity"]["passed"] == (row["sanity"]["correlation"] < 0.5)
        drop = row["faithfulness"]
        assert drop["low"] <= drop["value"] <= drop["high"]
        assert drop["n"] <= PLAN.measured
    for image in explained["images"]:
        assert [shown["model"] for shown in image["maps"]] == names
        assert image["state"] in ("right", "wrong", "attacked", "corrupted")
        for shown in image["maps"]:
            assert 0 <= shown["p_fake"] <= 1
    keys = set(keys_in([explained, specimens_of(run)]))
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
    assert {path.stem for path in run.path.glob("explain/pictures/*")} == keys
    assert loaded(run, min(keys)).shape == (16, 16, 3)


@pytest.mark.parametrize("folds", [1, 2])
def test_clean_images_are_judged_by_who_had_not_seen_them(runs: dict[int, Run], folds: int) -> None:
    run = runs[folds]
    explained = explain(run, PLAN)
    phase = run.shipped["phase"]
    known = run.predictions("resnet_se_small", phase).part(explained["part"])
    p, verdict = run.decision("resnet_se_small", phase).apply(margins(known.logits))
    place = {image_id: k for k, image_id in enumerate(known.table["image_id"])}
    clean = [image for image in explained["images"] if image["condition"] == "clean"]
    assert clean
    for image in clean:
        k, shown = place[image["image_id"]], image["maps"][0]
        assert shown["p_fake"] == pytest.approx(p[k], abs=1e-4)
        assert shown["target"] == ("fake" if verdict[k] else "real")
        assert image["label"] == known.labels[k]


def test_states_are_what_they_say(runs: dict[int, Run]) -> None:
    run = runs[2]
    explained = explain(run, PLAN)
    images = {(image["state"], image["image_id"]): image for image in explained["images"]}
    for (state, image_id), image in images.items():
        whole = image["maps"][-1]
        is_right = (whole["target"] == "fake") == image["label"]
        if state in ("right", "wrong"):
            assert is_right == (state == "right")
            assert image["condition"] == "clean"
            continue
        before = images["right", image_id]
        assert image["picture"] != before["picture"]
        assert image["condition"] == {"attacked": "fgsm-linf-0.05", "corrupted": "jpeg_compression-3"}[state]
        if state == "attacked":
            towards = whole["p_fake"] - before["maps"][-1]["p_fake"]
            assert towards * (1 if image["label"] else -1) <= 0
            assert 1 <= farthest(run, image, before) <= round(0.05 * 255)


def loaded(run: Run, key: str) -> np.ndarray:
    with Image.open(run.file("explain", "pictures", f"{key}.png")) as picture:
        return np.asarray(picture, np.int64)


def farthest(run: Run, one: dict[str, Any], other: dict[str, Any]) -> int:
    """Largest difference of two pictures in grey levels."""
    return int(np.abs(loaded(run, one["picture"]) - loaded(run, other["picture"])).max())


def test_specimens(runs: dict[int, Run]) -> None:
    run = runs[2]
    explain(run, PLAN)
    found = specimens_of(run)
    assert (found["schema"], found["fingerprint"]) == (1, run.fingerprint)
    assert sorted(entry["label"] for entry in found["examples"]) == [0, 0, 1, 1]
    assert all(entry["wrong_by"] and set(entry["p_fake"]) >= set(entry["wrong_by"]) for entry in found["hardest"])
    assert not found["disagreed"]  # one detector agrees with itself
    assert len(found["corruptions"]) == 19 * len(SEVERITIES)
    assert len({entry["image_id"] for entry in found["corruptions"]}) == 1
    grid = {(entry["model"], entry["image_id"], entry["eps"]): entry for entry in found["attacked"]}
    assert len(grid) == 2 * 2 * len(EPSILONS)
    assert {(e["model"], e["phase"]) for e in found["attacked"]} == {
        ("resnet_se_small", "final"),
        ("ensemble", run.shipped["phase"]),
    }
    for (model, image_id, eps), entry in grid.items():
        clean = grid[model, image_id, 0.0]
        if eps:
            assert farthest(run, entry, clean) == round(eps * 255)
            assert (entry["p_fake"] - clean["p_fake"]) * (1 if entry["label"] else -1) <= 0


def test_nothing_is_computed_twice_and_no_picture_is_left_over(
    runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs[1]
    first = explain(run, PLAN)
    files = sorted(run.path.glob("explain/**/*.*"))
    stamps = [path.stat().st_mtime_ns for path in files]
    with monkeypatch.context() as patched:
        patched.setattr(module, "load_team", lambda *_: pytest.fail("computed again"))
        again = explain(run, PLAN.model_copy(update={"device": "cpu", "batch": 7}))
    assert again == run.read_json("explain", "explain.json")
    assert [path.stat().st_mtime_ns for path in files] == stamps
    gone = run.file("explain", "pictures", f"{first['images'][0]['picture']}.png")
    gone.unlink()
    explain(run, PLAN)
    assert gone.exists()
    other = explain(run, PLAN.model_copy(update={"cam": "layercam", "specimens": 0}))
    assert other["cam"] == "layercam"
    keys = set(keys_in([other, specimens_of(run)]))
    assert {path.stem for path in run.path.glob("explain/pictures/*")} == keys
    assert not specimens_of(run)["examples"]


def test_a_killed_one_leaves_the_former_files_whole(runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs[2]
    before = explain(run, PLAN)
    with monkeypatch.context() as patched:
        patched.setattr(module, "measure", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            explain(run, PLAN.model_copy(update={"cam": "hirescam"}))
    assert run.read_json("explain", "explain.json")["cam"] == "gradcam"
    there = {path.stem for path in run.path.glob("explain/pictures/*")}
    assert there >= set(keys_in([before, specimens_of(run)]))


def test_what_cannot_be_explained_is_said(runs: dict[int, Run]) -> None:
    run, reporter = runs[1], Heard()
    explain(run, PLAN.model_copy(update={"seed": 3}), reporter)
    assert len(reporter.warnings) == 2
    assert reporter.warnings[0].startswith("mlp is not explained: MLP has no feature map")
    assert reporter.warnings[1].startswith("ensemble is not explained")
    with pytest.raises(ModelError, match="MLP has no feature map"):
        explain(run, PLAN.model_copy(update={"models": ("mlp",)}))


def test_a_layer_whose_every_map_is_blank_is_an_error(runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(detector: Any, x: Any, *rest: Any) -> Any:
        seen = verdict_maps(detector, x, *rest)
        return replace(seen, maps=np.zeros_like(seen.maps))

    monkeypatch.setattr(subjects, "verdict_maps", nothing)
    with pytest.raises(ModelError, match=r"all 20 maps of resnet_se_small at net.stages.0 are zero.*--cam"):
        explain(runs[2], PLAN.model_copy(update={"seed": 4, "images": 8}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": ("resnet",)}, "no model 'resnet'"),
        ({"cam": "gradcan"}, "did you mean 'gradcam'"),
        ({"corruption": "fogg"}, "fog"),
        ({"part": "val"}, "no part 'val'"),
    ],
)
def test_what_is_not_there_is_named(runs: dict[int, Run], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain(runs[2], PLAN.model_copy(update=wrong))


def test_an_unfinished_run_is_refused(runs: dict[int, Run], tmp_path: Path) -> None:
    done = runs[1].file("DONE")
    done.rename(tmp_path / "DONE")
    try:
        with pytest.raises(RunError, match="not finished"):
            explain(runs[1], PLAN)
    finally:
        (tmp_path / "DONE").rename(done)
