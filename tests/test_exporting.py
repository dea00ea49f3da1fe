"""Exported files carry all that a verdict needs; what answers differently is not kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_df import exporting
from robustbench_df.deploy import int8
from robustbench_df.deploy.fidelity import FidelityPlan
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.exporting import ExportPlan, export_run, ready_file
from robustbench_df.inference import predict
from robustbench_df.metrics.weights import EnsembleWeights
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from tests.conftest import learnable_set
from tests.runs import settings, write_folder

FEW = FidelityPlan(images=20, attacked=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("place")
    source = write_folder(learnable_set(160), place / "images")
    return train_all(settings(source, "phase2.epochs=0"), place / "run")


def test_file_and_sidecar_are_enough_for_the_verdict(run: Run, tmp_path: Path) -> None:
    """With ONNX Runtime, numpy and the JSON alone: the probabilities and verdicts of ``rdf predict``."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    made = export_run(run, ExportPlan(), tmp_path / "out" / "a.onnx")
    said = json.loads(made.sidecar.read_text())
    images = run.images()
    session = runtime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    pixels = images.data[:12].astype(np.float32) / 255
    (logits,) = session.run([said["output"]["name"]], {said["input"]["name"]: pixels})
    p = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]) / said["decision"]["temperature"]))
    expected = predict(run, images, np.arange(12))
    assert np.allclose(p, expected.probability, atol=1e-4)
    assert ((p >= said["decision"]["threshold"]) == expected.verdict).all()
    assert said["input"]["shape"][1:] == [3, *images.size]
    assert said["bytes"] == made.path.stat().st_size
    assert said["members"] == list(run.models)
    assert EnsembleWeights.from_dict(said["weights"]) == run.weights()
    assert str(tmp_path) not in made.sidecar.read_text()


def test_an_exported_program_needs_no_extra(run: Run, tmp_path: Path) -> None:
    made = export_run(run, ExportPlan(model="mlp", form="exported-program"), tmp_path / "a.pt2")
    x = torch.rand(5, 3, *run.image_size)
    with torch.no_grad():
        assert torch.allclose(torch.export.load(made.path).module()(x), run.detector("mlp")(x), atol=1e-5)
    assert made.facts["checked"]["largest_difference"] < 1e-4


def test_a_file_that_answers_differently_is_not_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ExportPlan(model="mlp", form="exported-program")
    monkeypatch.setattr(exporting, "open_graph", lambda *_: lambda x: torch.full((len(x), 2), float("nan")))
    with pytest.raises(ModelError, match="nothing is kept"):
        export_run(run, plan, tmp_path / "a.pt2")
    own = run.detector("mlp")
    monkeypatch.setattr(exporting, "open_graph", lambda *_: lambda x: own(x) + 0.01)
    with pytest.raises(ModelError, match=r"differ from the detector's by 0\.01"):
        export_run(run, plan, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def test_a_file_is_used_again_only_while_it_is_the_runs(run: Run) -> None:
    plan = ExportPlan(model="mlp", form="exported-program")
    assert ready_file(run, plan) is None
    made = export_run(run, plan)
    assert ready_file(run, plan) == made.path
    other = "final" if run.shipped["phase"] == "base" else "base"
    assert ready_file(run, plan.model_copy(update={"phase": run.shipped["phase"]})) == made.path
    assert ready_file(run, plan.model_copy(update={"phase": other})) is None
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ready_file(run, plan) is None


def test_int8_is_judged_on_images_that_nothing_was_fitted_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    seen: list[torch.Tensor] = []
    original = int8.calibration_images

    def calibration(*args: object) -> torch.Tensor:
        seen.append(original(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(exporting, "calibration_images", calibration)
    made = export_run(run, ExportPlan(model="resnet_se_small", int8=True, judged=FEW), tmp_path / "a.onnx")
    images = run.images()
    part = dict(zip(run.split["image_id"], run.split["part"], strict=True))
    by_pixels = {images.data[k].tobytes(): part[name] for k, name in enumerate(images.ids)}
    used = {by_pixels[(x * 255).round().to(torch.uint8).numpy().tobytes()] for x in seen[0]}
    assert used == {"train"}
    facts = made.facts["int8"]
    assert facts["part"] == "test"
    assert set(facts["conditions"]) == {"clean", "fgsm L∞ 0.00784314 (2/255)", "pgd L∞ 0.00784314 (2/255)"}
    for row in facts["conditions"].values():
        assert row["float32"]["low"] <= row["float32"]["value"] <= row["float32"]["high"]
        gap = row["int8"]["value"] - row["float32"]["value"]
        assert row["difference"]["difference"] == pytest.approx(gap)
    assert 0 < facts["largest_difference"] < 1
    parameters = sum(p.numel() for p in run.detector("resnet_se_small").parameters())
    assert made.path.stat().st_size < 0.5 * 4 * parameters


def test_int8_goes_with_onnx(run: Run) -> None:
    with pytest.raises(UsageError, match="--int8 goes with --format onnx"):
        export_run(run, ExportPlan(int8=True, form="exported-program"))
    with pytest.raises(UsageError, match="did you mean 'mlp'"):
        export_run(run, ExportPlan(model="mpl"))
