"""torchattacks through our victim: the same images as ours, passes counted, nothing left behind."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks import runner
from robustbench_df.attacks.library import PREFIX, available, library_attack
from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError
from tests.attacks.detectors import Linear, Small, images, labels_of, victim_of

torchattacks = pytest.importorskip("torchattacks")

X = images(12)


def attacked(
    detector: nn.Module, name: str, eps: float | Tensor = 8 / 255, x: Tensor = X, **settings: object
) -> Victim:
    """What the victim holds after ``name``; ``limit`` and ``y`` as the runner would set them."""
    attack = library_attack(PREFIX + name)
    settings.setdefault("norm", attack.norms[0])
    spec = AttackSpec(name=PREFIX + name, **settings)
    return victim_of(attack.run, detector, x, eps, spec, key=(0, name), stop=True)


@pytest.mark.parametrize("detector", [Linear(scale=0.2), Small()])
@pytest.mark.parametrize("eps", [0.01, 8 / 255, 0.2])
def test_fgsm_and_pgd_return_the_same_images_as_ours(detector: nn.Module, eps: float) -> None:
    y = labels_of(detector, X)
    steps = {"steps": 10, "step_size": eps / 4, "random_start": False}
    for theirs, ours, settings in (("FGSM", "fgsm", {}), ("PGD", "pgd", steps)):
        victim = attacked(detector, theirs, eps, **settings)
        own = run_attack(detector, X, y, AttackSpec(name=ours, eps=eps, early_stop=False, **settings))
        assert (victim.last - own.x_adv).abs().max() <= 1e-6
        assert torch.equal(victim.success, own.success)
        assert (victim.last - X).abs().amax() > eps * 0.9


def test_settings_go_in_as_params_or_as_fields_of_the_spec() -> None:
    detector = Small()
    fields = attacked(detector, "PGD", steps=7, step_size=0.01, random_start=False)
    params = attacked(detector, "PGD", params={"steps": 7, "alpha": 0.01, "random_start": False})
    assert torch.equal(fields.last, params.last)
    assert not torch.equal(fields.last, attacked(detector, "PGD", steps=3, random_start=False).last)


def test_every_image_has_its_own_budget() -> None:
    eps = torch.tensor([0.01, 0.03, 0.05]).repeat(4)
    victim = attacked(Linear(), "FGSM", eps)
    assert torch.allclose((victim.last - X).abs().amax((1, 2, 3)), eps, atol=1e-6)
    assert (victim.forwards == 3).all(), "clean, theirs, ours"


def test_passes_are_counted_per_image() -> None:
    victim = attacked(Small(), "PGD", steps=6)
    assert (victim.forwards == 1 + 6 + 1).all()
    assert (victim.backwards == 6).all()
    eot = attacked(Small(), "PGD", steps=6, eot=3)
    assert (eot.forwards == 1 + 3 * 6 + 1).all()
    assert (eot.backwards == 3 * 6).all()


def test_images_asked_apart_are_charged_to_the_right_one() -> None:
    """Square drops an image once fooled: one beside the boundary costs a few forwards, those far from it all."""
    detector = Linear()
    w = detector.w.detach().reshape(1, 3, 8, 8)
    said = detector(X[:3]).detach()
    wanted = torch.tensor([3.0, 1e-6, 3.0]) - (said[:, 1] - said[:, 0])
    x = X[:3] + w * (wanted / w.square().sum()).reshape(3, 1, 1, 1)
    victim = attacked(detector, "Square", 0.001, x, queries=40)
    assert victim.correct.all()
    assert victim.success.tolist() == [False, True, False]
    assert victim.forwards[[0, 2]].tolist() == [40, 40]
    assert victim.forwards[1] < 15


def test_modes_and_flags_are_restored() -> None:
    detector = Small()
    y = labels_of(detector, X)
    detector.train()
    detector.net[1].eval()
    detector.net[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    modes = [m.training for m in detector.modules()]
    flags = [p.requires_grad for p in detector.parameters()]
    attack, spec = library_attack("torchattacks:PGD"), AttackSpec(name="torchattacks:PGD", steps=2)
    victim = Victim(detector, X, y, torch.arange(12), "linf", torch.full((12,), 0.03))
    attack.run(victim, spec)
    assert [m.training for m in detector.modules()] == modes
    assert [p.requires_grad for p in detector.parameters()] == flags
    assert all(p.grad is None for p in detector.parameters())
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


def test_the_library_never_meets_train_mode() -> None:
    seen = []

    class Watched(Small):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(any(m.training for m in self.modules()))
            return super().forward(x)

    detector = Watched()
    detector.train()
    attacked(detector, "PGD", steps=3)
    assert len(seen) > 4
    assert not any(seen[1:])


def test_the_global_generators_are_left_alone_and_runs_repeat() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    runs = [attacked(Small(), name, steps=3).last for name in ("PGD", "PGD", "DIFGSM", "DIFGSM")]
    squares = [attacked(Small(), "Square", queries=30).last for _ in range(2)]
    pixles = [attacked(Small(), "Pixle", params={"restarts": 2, "max_iterations": 2}).last for _ in range(2)]
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
    for first, second in (runs[:2], runs[2:], squares, pixles):
        assert torch.equal(first, second)
    moved = library_attack("torchattacks:PGD")
    other = Victim(Small(), X, labels_of(Small(), X), torch.arange(12), "linf", torch.full((12,), 8 / 255), key=(1,))
    moved.run(other, AttackSpec(name="torchattacks:PGD", steps=3))
    assert not torch.equal(other.last, runs[0]), "another seed, another start"


def test_success_and_norm_are_ours() -> None:
    """DeepFool ignores the budget: what it finds beyond it is no success, yet its distance is known."""
    detector = Linear()
    exact = detector.distance(X, "l2")
    victim = attacked(detector, "DeepFool", exact.median())
    assert torch.allclose(victim.distance, exact * 1.02, rtol=1e-2)
    assert torch.equal(victim.success, exact * 1.02 <= exact.median())
    assert 0 < int(victim.success.sum()) < 12


def test_the_runner_attacks_with_it_only_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "attack_named", library_attack)
    detector = Linear()
    y = labels_of(detector, X)
    y[:4] = 1 - y[:4]
    found = run_attack(detector, X, y, AttackSpec(name="torchattacks:PGD", eps=0.05, steps=4), batch_size=5)
    assert found.forwards.tolist() == [1] * 4 + [6] * 8
    assert found.success.tolist() == [False] * 4 + [True] * 8
    assert (detector(found.x_adv).argmax(1) != y).all()


def test_square_keeps_within_its_questions() -> None:
    detector = Linear(scale=10.0)
    far = (0.5 + 0.4 * detector.w.sign().reshape(1, 3, 8, 8)).repeat(3, 1, 1, 1)
    for restarts in (1, 2):
        victim = attacked(detector, "Square", 0.001, far, queries=40, restarts=restarts)
        assert int(victim.forwards.max()) <= 40
        assert int(victim.forwards.min()) > 30
        assert not victim.backwards.any()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("DIFGMS", {}, "did you mean 'DIFGSM'"),
        ("AutoAttack", {}, "--suite standard"),
        ("MultiAttack", {}, "several times"),
        ("FGSM", {"params": {"alpha": 0.1}}, "takes no --param alpha; it takes none"),
        ("PGD", {"params": {"step": 3}}, r"did you mean 'steps'.*steps=10, random_start=True"),
        ("PGD", {"params": {"eps": 0.3}}, "takes no --param eps"),
        ("PGD", {"params": {"steps": "many"}}, "steps is like 10, not 'many'"),
        ("PGD", {"params": {"random_start": 1}}, "random_start is like True, not 1"),
        ("FGSM", {"steps": 3}, "has no setting for steps"),
        ("SPSA", {"queries": 100}, "has no setting for queries"),
        ("APGD", {"params": {"loss": "dlr"}}, "fails on this detector with these settings: IndexError"),
    ],
)
def test_what_the_library_does_not_take_is_refused_in_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        attacked(Small(), name, **settings)
    assert "\n" not in str(caught.value)


def test_a_failure_restores_the_generators() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(UsageError):
        attacked(Small(), "APGD", params={"loss": "dlr"})
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_that_hold_nan_are_a_finding() -> None:
    victim = attacked(Small(), "PGD", params={"alpha": float("nan"), "steps": 1})
    assert (victim.not_finite == 1).all()
    assert not victim.success.any()
    assert torch.isfinite(victim.last).all()


def test_the_list_names_every_class_that_runs() -> None:
    lines = available()
    names = {line.split()[0] for line in lines}
    assert {"torchattacks:DIFGSM", "torchattacks:CW", "torchattacks:Square"} <= names
    assert "torchattacks:AutoAttack" not in names
    assert len(names) == len(torchattacks.__all__) - 4
    assert all("\n" not in line and len(line.split()) > 3 for line in lines)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    library_attack.cache_clear()
    with pytest.raises(UsageError, match="pip install torchattacks"):
        library_attack("torchattacks:FGSM")
    assert available() == []
