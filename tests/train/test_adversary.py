"""Which images of a batch are attacked, how free adversarial training follows its gradient, and separate norms."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robustbench_df.config import AdversarialConfig
from robustbench_df.data.split import Split, make_split
from robustbench_df.errors import UsageError
from robustbench_df.models.detector import Detector
from robustbench_df.settings import validated
from robustbench_df.train.adversary import Adversary, Batch
from robustbench_df.train.fit import fit
from robustbench_df.train.norms import auxiliary_norms
from robustbench_df.train.speed import Setting
from robustbench_df.train.state import Trained
from robustbench_df.train.step import backward
from tests.attacks.detectors import Small
from tests.conftest import learnable_set
from tests.train.test_fit import StopAt, job, same

EPS = 0.05
X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y, IDS = torch.arange(20) % 2, torch.arange(20)
SCALER = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture(scope="module")
def split() -> Split:
    return make_split(learnable_set(64))


def normalised() -> Detector:
    torch.manual_seed(1)
    layers = (torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    return Detector(torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(6, 2)))


def trained(net: Detector) -> Trained:
    return Trained(net, None, torch.optim.SGD(net.parameters()), SCALER)


def met(adversary: Adversary, seed: int = 0) -> Batch:
    return adversary.attack(X, Y, IDS, ("key",), 8, torch.Generator().manual_seed(seed))


def config(**settings: object) -> AdversarialConfig:
    return validated(AdversarialConfig, {"epsilons": [EPS], **settings})


@pytest.mark.parametrize("mix", ["sample", "batch"])
def test_thirty_percent_of_training_is_adversarial(mix: str) -> None:
    adversary = Adversary(Detector(Small()), config(mix=mix), Setting())
    shares = []
    for seed in range(60 if mix == "batch" else 3):
        batch = met(adversary, seed)
        changed = (batch.images - X).abs().amax((1, 2, 3))
        shares.append(float((changed > 0).float().mean()))
        assert changed.max() <= EPS + 1e-6
        assert batch.attacked == round(shares[-1] * 20)
    if mix == "sample":
        assert shares == [pytest.approx(0.3)] * 3
    else:
        assert set(shares) == {0.0, 1.0}
        assert 0.1 < sum(shares) / len(shares) < 0.5


def test_free_climbs_the_gradient_that_training_leaves_and_forgets_it_with_the_epoch() -> None:
    net = normalised()
    adversary = Adversary(net, config(objective="free", ratio=0.5), Setting())
    target = torch.nn.functional.one_hot(Y, 2).float()
    losses = []
    for _ in range(3):  # no optimiser step: only the images move
        batch = met(adversary)
        losses.append(float(backward(trained(net), batch.images, target, Setting(), 8, batch)))
        adversary.learn(batch)
    assert losses[0] < losses[1]
    moved = (met(adversary).images - X).detach().abs().amax((1, 2, 3))
    assert (moved[:10] > 0).all()
    assert moved.max() <= EPS + 1e-6
    assert (moved[10:] == 0).all()  # the clean half of the batch
    assert all(p.grad is not None for p in net.parameters())
    adversary.begin_epoch()
    assert torch.equal(met(adversary).images.detach(), X)


def test_micro_batches_are_of_equal_size() -> None:
    images = torch.zeros(50, 3, 2, 2)
    assert [len(part) for part, _ in Batch(images).parts(16)] == [13, 13, 12, 12]
    assert [len(part) for part, _ in Batch(images).parts(50)] == [50]
    assert torch.equal(torch.cat([part for part, _ in Batch(images).parts(16)]), torch.arange(50))
    norms = Adversary(normalised(), config(separate_norm=True), Setting()).norms
    assert [len(part) for part, _ in Batch(images, attacked=19, norms=norms).parts(16)] == [10, 9, 16, 15]


def test_an_epoch_of_free_meets_a_batch_as_often_as_it_is_replayed(tmp_path: Path, split: Split) -> None:
    seen: list[torch.Tensor] = []

    class Watched(Adversary):
        def attack(self, x: torch.Tensor, *rest: object) -> Batch:
            seen.append(x.clone())
            return super().attack(x, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustbench_df.train.step.Adversary", Watched)
        options = ("phase1.epochs=0", "phase2.epochs=1", "phase2.objective=free", "phase2.replays=2")
        fit(job(tmp_path, *options), split)
    assert len(seen) == len(split.train) // 16
    repeats = [torch.equal(a, b) for a, b in pairwise(seen)]
    assert repeats == [k % 2 == 0 for k in range(len(repeats))]


OBJECTIVES = {"free": "phase2.objective=free", "separate norm": "phase2.separate_norm=true"}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_phase_stopped_in_the_middle_ends_in_the_same_weights(tmp_path: Path, split: Split, objective: str) -> None:
    options = ("phase1.epochs=0", "phase2.epochs=2", objective)
    fit(job(tmp_path / "whole", *options), split)
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "parts", *options), split, StopAt(1))
    fit(job(tmp_path / "parts", *options), split)
    assert same(tmp_path / "whole", tmp_path / "parts")
    key = "val_pgd_accuracy" if "free" in objective else "val_fgsm_accuracy"
    assert key in json.loads((tmp_path / "whole" / "final-history.jsonl").read_text().splitlines()[0])


def test_adversarial_images_leave_the_deployed_statistics_alone() -> None:
    net = normalised().train()
    adversary = Adversary(net, config(separate_norm=True, ratio=0.5), Setting())
    assert adversary.norms is not None
    twins = dict(adversary.norms.named_buffers())
    before = {k: v.clone() for k, v in net.named_buffers()}
    target = torch.nn.functional.one_hot(Y, 2).float()
    images = met(adversary).images.detach()
    batch = Batch(images, attacked=20, norms=adversary.norms)  # nothing but adversarial images
    backward(trained(net), images, target, Setting(), 20, batch)
    assert all(torch.equal(v, before[k]) for k, v in net.named_buffers())
    assert twins["twins.0.num_batches_tracked"] == 1
    assert not torch.equal(twins["twins.0.running_mean"], before["net.1.running_mean"])
    assert net.net[1].weight.grad is None
    assert adversary.norms.twins[0].weight.grad is not None
    batch = Batch(images, attacked=0, norms=adversary.norms)
    backward(trained(net), images, target, Setting(), 20, batch)
    assert net.net[1].num_batches_tracked == 1
    assert twins["twins.0.num_batches_tracked"] == 1


def test_what_is_deployed_has_the_keys_of_a_plain_detector(tmp_path: Path, split: Split) -> None:
    options = ("phase1.epochs=0", "phase2.epochs=1", "phase2.select=last")
    fit(job(tmp_path / "plain", *options), split)
    fit(job(tmp_path / "split", *options, "phase2.separate_norm=true"), split)
    plain, own = (load_file(tmp_path / name / "final.safetensors") for name in ("plain", "split"))
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in own.items()}
    assert any(not torch.equal(plain[k], own[k]) for k in plain)


def test_the_detectors_own_layers_are_back_whatever_happens() -> None:
    net = normalised()
    own, norms = net.net[1], auxiliary_norms(net)
    assert norms is not None
    with norms.used():
        assert net.net[1] is norms.twins[0]
    assert net.net[1] is own
    with pytest.raises(RuntimeError), norms.used():
        net(torch.rand(1, 5, 8, 8))
    assert net.net[1] is own
    assert auxiliary_norms(Detector(torch.nn.Linear(2, 2))) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"separate_norm": True, "objective": "trades"},
        {"separate_norm": True, "ratio": 1.0},
        {"separate_norm": True, "freeze_backbone": True},
        {"objective": "free", "mixup": 0.2},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        config(**settings)
