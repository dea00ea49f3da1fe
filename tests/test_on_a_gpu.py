"""The whole package on a GPU that is pretended (`tests.pretend_cuda`): tensors are where they belong.

Answers must be the CPU's, bit for bit, for that is where a pretended GPU computes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from robustbench_df import scrutiny
from robustbench_df.attack_plan import AttackPlan
from robustbench_df.attacks import checks, probes
from robustbench_df.attacks.runner import Attacked, run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.suite import SUITES, run_suite
from robustbench_df.attacks.transfer import transfer_matrix
from robustbench_df.benching import BenchPlan, bench_run
from robustbench_df.config import AugmentConfig, ModelConfig, SpeedConfig
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionPlan
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.errors import Interrupted
from robustbench_df.explain import ExplainPlan, explain
from robustbench_df.explaining.cams import cam_maps
from robustbench_df.inference import predict
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.models.statistics import StatisticsNet
from robustbench_df.models.zoo import build_detector
from robustbench_df.pipeline import train_all
from robustbench_df.progress import Reporter
from robustbench_df.robustness import attack_run
from robustbench_df.run import Run
from robustbench_df.train.augment import augment
from robustbench_df.train.speed import Setting, setting_for, training_rate
from tests.cli.test_cli import rdf
from tests.conftest import learnable_set
from tests.pretend_cuda import NAME, pretend_cuda
from tests.runs import SMALL, settings, write_folder

GPU, SIZE = torch.device("cuda", 0), (16, 16)
TRAINING = (
    "speed.device='cuda'",
    "phase1.batch_size=32",
    "phase2.batch_size=32",
    "phase1.copies=8",
    "phase1.mixup=0.3",
    "phase1.cutmix=0.5",
    "phase2.copies=4",
    "phase2.adversarial_copies=8",
    "phase2.ema=0.9",
    "phase2.select='last'",
)


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> Iterator[None]:
    with pretend_cuda():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(learnable_set(80), tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    chosen = ("models=['resnet_se_small', 'mlp']", "phase1.epochs=1", "speed.precision='bf16'")
    return train_all(
        settings(source, *TRAINING, *chosen, "speed.memory_format='channels_last'"),
        tmp_path_factory.mktemp("runs") / "one",
    )


def weights(run: Run, model: str, phase: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(run.model_dir(model) / f"{phase}.safetensors")
    return found


def test_both_phases_are_trained_on_it(run: Run) -> None:
    assert {setting["device"] for setting in run.read_json("speed.json").values()} == {"cuda"}
    assert run.read_json("provenance.json")["hardware"]["device"] == f"cuda ({NAME})"
    for model in run.models:
        base, final = weights(run, model, "base"), weights(run, model, "final")
        assert any(not torch.equal(base[name], final[name]) for name in base)


@pytest.mark.parametrize(
    "changed",
    [
        ("phase2.objective='trades'", "phase2.attack_steps=2", "phase2.micro_batch=16"),
        ("phase2.objective='fast'", "phase2.separate_norm=true", "phase2.mix='batch'"),
        ("phase2.objective='free'", "phase1.freeze_backbone=true"),
    ],
    ids=["trades", "separate norms", "free"],
)
def test_other_ways_of_training(source: Path, tmp_path: Path, changed: tuple[str, ...]) -> None:
    how = ("speed.precision='bf16'", "speed.memory_format='channels_last'", "phase1.epochs=1", "phase2.ema=0.9")
    run = train_all(settings(source, "models=['resnet_se_small']", *TRAINING[:3], *how, *changed), tmp_path / "run")
    history = (run.model_dir("resnet_se_small") / "final-history.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(row)["loss"]) for row in history)


class Stopped(Reporter):
    """Stops whoever trains after the first epoch."""

    def epoch(self, row: dict[str, Any]) -> None:  # noqa: ARG002
        """Stop."""
        raise KeyboardInterrupt


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(source: Path, tmp_path: Path) -> None:
    half = ("speed.precision='fp16'", "speed.memory_format='contiguous'", "models=['mlp']")
    config = settings(source, *TRAINING, *half, "phase1.ema=0.5")
    whole = train_all(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_all(config, tmp_path / "stopped", reporter=Stopped())
    resumed = train_all(config, tmp_path / "stopped", resume=True)
    for phase in ("base", "final"):
        one, other = weights(whole, "mlp", phase), weights(resumed, "mlp", phase)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_probe_measures_on_it() -> None:
    chosen = setting_for(lambda: network("mlp"), SIZE, 8, SpeedConfig(device="cuda"), {})
    assert chosen.device == "cuda"
    assert chosen.measured is not None
    assert len(chosen.measured) == 4


def test_train_and_predict_from_the_command_line(source: Path, tmp_path: Path) -> None:
    options = [part for o in (*SMALL, "models=['mlp']", "split.folds=2", "refit=true") for part in ("--set", o)]
    with devices_seen() as at_training:
        trained = rdf("train-all", "--data", str(source), "--device", "cuda", "--run", "run", *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    asked = ("predict", str(source), "--run", "run", "--device", "cuda", "--tta", "--form", "csv", "--to", "out")
    with devices_seen() as at_predicting:
        predicted = rdf(*asked, cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert at_training == at_predicting == {GPU}
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 81


@contextmanager
def devices_seen() -> Iterator[set[torch.device]]:
    """Keep on which devices networks compute meanwhile, but for two images: on the CPU it is tried whether they can."""
    seen: set[torch.device] = set()

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 2:
            seen.add(inputs[0].device)

    hook = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def network(name: str) -> Detector:
    """Return an untrained detector whose answers differ from image to image."""
    torch.manual_seed(0)
    if name == "image_statistics":
        return Detector(StatisticsNet(16)).eval()
    detector = build_detector(ModelConfig(name=name, pretrained="never"), SIZE)[0]
    with torch.no_grad():
        detector(learnable_pixels())  # running statistics that are those of images
    return detector.eval()


def learnable_pixels(n: int = 12) -> Tensor:
    return torch.from_numpy(learnable_set(n).data).float() / 255


def of_both(compute: Callable[[Detector, Tensor, Tensor], Any], detector: Detector | None = None) -> tuple[Any, Any]:
    """Compute on the CPU and on the GPU: ``compute(detector, images, labels that the detector gives)``."""
    detector, x = detector or network("vgg6"), learnable_pixels()
    y = detector(x).argmax(1)
    on_gpu = copy.deepcopy(detector).to("cuda"), x.to("cuda"), y.to("cuda")
    return compute(detector, x, y), compute(*on_gpu)


def team() -> Ensemble:
    return Ensemble([network("vgg6"), network("resnet_se_small")], [0.6, 0.4]).eval()


def require_same(cpu: Attacked, gpu: Attacked) -> None:
    assert gpu.x_adv.device == gpu.success.device == gpu.distance.device == GPU
    assert torch.equal(gpu.x_adv.cpu(), cpu.x_adv)
    assert torch.equal(gpu.forwards.cpu(), cpu.forwards)


@pytest.mark.parametrize("name", ["vgg6", "image_statistics"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_of_a_network(name: str, precision: str) -> None:
    assert training_rate(network(name), SIZE, 4, Setting("cuda", precision), steps=1) > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "fab", "square", "noise", "hopskipjump", "torchattacks:PGD"])
def test_attacks(name: str, norm: str) -> None:
    if ":" in name:
        pytest.importorskip("torchattacks")
        name += "L2" * (norm == "l2")
    settings = {"queries": 12} if name in ("square", "hopskipjump") else {} if name == "fgsm" else {"steps": 3}
    spec = AttackSpec(name=name, norm=norm, eps={"linf": 0.05, "l2": 0.5}[norm], **settings)
    require_same(*of_both(lambda detector, x, y: run_attack(detector, x, y, spec, only_correct=False)))


def test_a_suite_and_the_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    short = tuple(AttackSpec(name=name, steps=2) for name in ("pgd", "apgd", "fab"))
    monkeypatch.setitem(SUITES, "quick", (AttackSpec(name="fgsm"), *short, AttackSpec(name="square", queries=5)))
    require_same(*of_both(lambda detector, x, y: run_suite(detector, x, y, "quick", eps=0.003), team()))


def shorten_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in {"STEPS": 4, "DRAWS": 2, "QUERIES": 5, "RANDOM_STEPS": 2, "REPEATS": 1}.items():
        monkeypatch.setattr(probes, name, few)


def test_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_checks(monkeypatch)

    def checked(detector: Detector, x: Tensor, y: Tensor) -> list[checks.Check]:
        found = {"fgsm": run_attack(detector, x, y, AttackSpec(name="fgsm", eps=0.01))}
        return checks.run_checks(detector, x, y, 0.01, found=found)

    cpu, gpu = of_both(checked)
    assert gpu == cpu


def test_transfer() -> None:
    def crafted(detector: Detector, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
        other = network("resnet_se_small").to(x.device)
        return transfer_matrix({"one": detector, "other": other}, x, y, AttackSpec(name="pgd", steps=2))

    cpu, gpu = of_both(crafted)
    for source, row in gpu.items():
        assert all(right.device == GPU and torch.equal(right.cpu(), cpu[source][name]) for name, right in row.items())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions(name: str) -> None:
    x = learnable_pixels(3)
    for pixels in (x, (x * 255).to(torch.uint8)):
        damaged = corrupt(pixels.to("cuda"), name, 3)
        assert damaged.device == GPU
        assert torch.equal(damaged.cpu(), corrupt(pixels, name, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"vertical_flip": 0.5, "shift": 0.2},
        {"rotation": 20.0, "scale": 0.2, "perspective": 0.3},
        {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
        {"erase": 0.9, "cutout": 0.3},
        {"trivial": True},
        {"corruption": 1.0},
    ],
    ids=" ".join,
)
def test_augmentations(change: dict[str, Any]) -> None:
    x, ids, config = learnable_pixels(64), torch.arange(64), AugmentConfig(**change)
    changed = augment(x.to("cuda"), config, ids.to("cuda"), 0, 1)
    assert changed.device == GPU
    assert torch.equal(changed.cpu(), augment(x, config, ids, 0, 1))


@pytest.mark.parametrize("cam", ["gradcam", "eigencam"])
def test_maps(cam: str) -> None:
    for detector in (network("resnet_se_small"), team()):
        cpu, gpu = of_both(lambda detector, x, y: cam_maps(detector, x, y, cam), detector)
        assert cpu.max() == 1
        assert np.array_equal(cpu, gpu)


def test_predictions(run: Run) -> None:
    gpu, cpu = (predict(run, run.images(), np.arange(16), tta=True, device=device) for device in ("cuda", "cpu"))
    assert np.array_equal(gpu.probability, cpu.probability)


def test_a_run_is_attacked_and_looked_into(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, few in ((scrutiny, "CHECKED", 4), (scrutiny, "TRANSFERRED", 4), (scrutiny, "TRANSFER_STEPS", 2)):
        monkeypatch.setattr(place, name, few)
    shorten_checks(monkeypatch)
    attacks = (AttackSpec(name="fgsm"), AttackSpec(name="pgd", steps=2))
    plan = AttackPlan(
        device="cuda", epsilons=(0.02,), images=6, attacks=attacks, models=("ensemble",), phases=("final",)
    )
    with devices_seen() as seen:
        cells = attack_run(run, plan)
        found = scrutiny.examine(run, cells, plan, "shipped", Reporter())
        matrix = scrutiny.transfer_of(run, plan, Reporter())
        scrutiny.save_examples(run, cells, plan, 2, Reporter())
    assert seen == {GPU}
    assert [len(cell.load(run).table) for cell in cells] == [6] * 2
    assert set(found) >= {"ensemble · final"}
    assert matrix["n"] == 4


def test_a_run_is_corrupted_explained_and_timed(run: Run) -> None:
    kinds = ("gaussian_noise", "jpeg_compression", "fog")
    with devices_seen() as seen:
        corrupted = corrupt_run(run, CorruptionPlan(device="cuda", images=6, severities=(2,), corruptions=kinds))
        explained = explain(run, ExplainPlan(device="cuda", images=4, measured=4, specimens=2))
        timed = bench_run(run, BenchPlan(device="cuda", batches=(1,), seconds=1, models=("mlp",)))
    assert seen == {GPU}
    assert {len(cell.load(run).table) for cell in corrupted} == {6}
    assert explained["detectors"]
    assert timed["hardware"]["device"] == f"cuda ({NAME})"
