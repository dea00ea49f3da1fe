"""The checks: every planted fault trips its own flag, no healthy detector trips any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.attacks.checks import CHECKS, Check, run_checks
from robustbench_df.attacks.grading import limit
from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models.detector import Detector, Ensemble
from tests.attacks.detectors import Linear, Small, images, labels_of
from tests.conftest import Scarce, learnable_set

EPS = 0.005  # takes about half of the linear detector's images across its boundary
LARGE = 0.05  # takes all of them, and all of the trained network's, so that nothing is left for the slow attacks
N = 24


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checked(
    detector: nn.Module, x: Tensor, y: Tensor, eps: float = EPS, norm: str = "linf", **more
) -> dict[str, Check]:
    return {check.id: check for check in run_checks(detector, x, y, eps, norm, images=2 * N, **more)}


def flags(checks: dict[str, Check], *statuses: str) -> set[str]:
    return {name for name, check in checks.items() if check.status in (statuses or ("warn", "fail", "not run"))}


@cache
def linear() -> tuple[Linear, Tensor, Tensor]:
    detector = Linear().eval()
    x = images(N)
    return detector, x, labels_of(detector, x)


@cache
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    data = learnable_set(48, size=8)
    x, y = torch.from_numpy(data.data) / 255, torch.from_numpy(data.labels).long()
    detector = Small().train()
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.01)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(detector(x), y).backward()
        optimiser.step()
    return detector.eval(), x, y


class Planted(nn.Module):
    """The linear detector with something done to its pixels and to its logits."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net or linear()[0]
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def backward(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The identity with another backward pass."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx, gradient: Tensor) -> Tensor:
            return change(gradient)

    return Changed.apply


def straight_through(levels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x + ((x * levels).round() / levels - x).detach()


def scrambled(gradient: Tensor) -> Tensor:
    signs = torch.rand(gradient.shape[1:], generator=torch.Generator().manual_seed(0)) < 0.5
    return torch.where(signs, gradient, -gradient)


# Healthy detectors.


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("linf", LARGE), ("l2", 0.05), ("l1", 0.3)])
def test_a_linear_detector_raises_no_flag(norm: str, eps: float) -> None:
    checks = checked(*linear(), eps, norm)
    assert list(checks) == list(CHECKS)
    assert flags(checks) == set()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("linf", LARGE), ("l2", 2.0)])
def test_a_trained_network_raises_no_flag(norm: str, eps: float) -> None:
    checks = checked(*trained(), eps, norm)
    assert flags(checks) == set()


def test_log_probabilities_of_an_ensemble_raise_no_flag() -> None:
    net, x, y = trained()
    members = [net, Planted(net=net, after=lambda logits: logits / 2)]
    ensemble = Ensemble([Detector(member, mean=(0, 0, 0), std=(1, 1, 1)) for member in members]).eval()
    assert flags(checked(ensemble, x, y, LARGE)) == set()


# Planted faults: (what is done, the flags it must trip at least, and with which status).

PLANTED = {
    "detached": (lambda: Planted(lambda x: x.detach()), {"gradients": "fail", "differences": "fail"}),
    "zero gradient": (lambda: Planted(backward(lambda g: g * 0)), {"gradients": "fail", "landscape": "fail"}),
    "quantised": (lambda: Planted(lambda x: (x * 15).round() / 15), {"quantised": "fail", "gradients": "fail"}),
    "quantised, straight through": (lambda: Planted(straight_through(255)), {"quantised": "warn"}),
    "random": (lambda: Planted(lambda x: x + 0.1 * torch.randn_like(x)), {"repeatable": "fail"}),
    "saturated": (lambda: Planted(after=lambda logits: logits * 1000), {"saturated": "warn"}),
    "probabilities": (lambda: Planted(after=lambda logits: logits.softmax(1)), {"logits": "fail"}),
    "clipped to nothing": (lambda: Planted(backward(lambda g: g * 1e-12)), {"differences": "fail"}),
    "clipped": (lambda: Planted(backward(lambda g: g.clamp(-0.2, 0.2))), {"differences": "fail"}),
    "scrambled": (lambda: Planted(backward(scrambled)), {"differences": "fail", "landscape": "fail"}),
    "half missing": (lambda: Planted(backward(lambda g: g * (torch.arange(8) % 2))), {"differences": "fail"}),
    "not a number": (
        lambda: Planted(after=lambda logits: logits * torch.where(logits[:, :1] > 0.3, torch.nan, 1.0)),
        {"finite": "fail", "gradients": "fail"},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_trips_its_own_flag(name: str) -> None:
    build, expected = PLANTED[name]
    _, x, y = linear()
    checks = checked(build().eval(), x, y)
    assert {flag: checks[flag].status for flag in expected} == expected
    assert all(checks[flag].remedy and checks[flag].figures for flag in expected)


def test_some_faults_trip_no_other_flag() -> None:
    _, x, y = linear()
    for name in ("saturated", "probabilities", "clipped", "quantised, straight through"):
        build, expected = PLANTED[name]
        assert flags(checked(build().eval(), x, y, LARGE)) == set(expected), name


def test_masked_gradients_lose_to_the_black_box() -> None:
    _, x, y = linear()
    checks = checked(Planted(lambda x: x.detach()).eval(), x, y, 0.03)
    assert {"black-box", "chance", "flat-loss"} <= flags(checks, "fail")
    assert checks["black-box"].figures["square"] > 0.5


class Overfitted(nn.Module):
    """A margin that swings once per FGSM step: right when clean and after the whole step, wrong after half of it."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.linear, self.eps = Linear(), eps

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        steps = (logits[:, 1] - logits[:, 0]) / (self.linear.w.abs().sum() * self.eps)
        margin = torch.sin(2 * torch.pi * steps)
        return torch.stack([-margin, margin], dim=1)


def test_catastrophic_overfitting_has_a_flag_of_its_own() -> None:
    detector, x = Overfitted(0.03).eval(), images(N)
    checks = checked(detector, x, labels_of(detector, x), 0.03)
    assert flags(checks) == {"overfitting"}
    assert checks["overfitting"].status == "fail"
    assert checks["overfitting"].figures == {"fgsm": 1.0, "pgd": 0.0, "gap": 1.0, "back": 1.0}


def test_a_detector_left_in_train_mode_is_found_and_left_as_it_was() -> None:
    net, x, y = trained()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        checks = checked(net, x, y, LARGE)
        assert all(module.training for module in net.modules())
    finally:
        net.eval()
    assert flags(checks) == {"eval-mode"}
    assert checks["eval-mode"].figures["layers"] == 1
    assert checks["eval-mode"].figures["changed"] > 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dropout_left_on_is_found_and_the_global_generator_is_not_moved() -> None:
    _, x, y = linear()
    detector = nn.Sequential(Planted(), nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    checks = checked(detector, x, y, LARGE)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))
    assert flags(checks) == {"eval-mode"}
    # A detector that has nothing that the mode could change may stay in train mode.
    assert checked(Planted().train(), x, y, LARGE)["eval-mode"].status == "pass"


def test_batch_statistics_that_eval_does_not_stop_are_found() -> None:
    class Stubborn(Small):
        def train(self, _mode: bool = True) -> Stubborn:
            return super().train(True)

    detector = Stubborn()
    detector.load_state_dict(trained()[0].state_dict())
    _, x, y = trained()
    checks = checked(detector.eval(), x, y, LARGE)
    assert checks["eval-mode"].status == "fail"
    assert checks["eval-mode"].figures["depend_on_batch"] > 0


# Inputs and results from elsewhere.


def test_pixels_outside_the_box_leave_the_attacks_unrun() -> None:
    _, x, y = linear()
    checks = checked(linear()[0], x * 255, y)
    assert checks["input-range"].status == "fail"
    assert flags(checks, "not run") == {name for name, (_, needs) in CHECKS.items() if needs != "nothing"}
    assert checked(linear()[0], x / 255, y, LARGE)["input-range"].status == "warn"


def test_a_detector_that_is_right_on_nothing_is_not_called_robust() -> None:
    detector, x, y = linear()
    checks = checked(detector, x, 1 - y)
    assert flags(checks, "not run") == {name for name, (_, needs) in CHECKS.items() if needs == "right"}


def test_claims_of_other_attacks_are_verified_and_held_against_the_gradient() -> None:
    detector, x, y = linear()
    honest = run_attack(detector, x, y, AttackSpec(name="pgd", eps=EPS))
    assert flags(checked(detector, x, y, found={"apgd": honest})) == set()
    far = replace(honest, x_adv=x + 2 * (honest.x_adv - x))
    assert flags(checked(detector, x, y, found={"apgd": far})) == {"bounds"}
    all_fooled = replace(honest, success=torch.ones_like(honest.success))
    checks = checked(detector, x, y, found={"apgd": all_fooled})
    assert checks["bounds"].figures["unheld"] > 0
    # The same claim by an attack that sees no gradient says that the gradient is masked.
    checks = checked(detector, x, y, found={"transfer:other": all_fooled})
    assert checks["black-box"].status == "fail"
    assert checks["black-box"].figures["transfer:other"] == pytest.approx(float((~honest.success).float().mean()))


def test_the_same_images_give_the_same_checks_in_any_order() -> None:
    detector, x, y = linear()
    ids = torch.arange(N)
    back = torch.arange(N - 1, -1, -1)
    one = checked(detector, x, y, ids=ids)
    other = checked(detector, x[back], y[back], ids=ids[back])
    for name in CHECKS:
        assert one[name].status == other[name].status
        assert one[name].figures == pytest.approx(other[name].figures, abs=1e-4)


def test_both_classes_are_looked_at_and_progress_is_told() -> None:
    detector, x, y = linear()
    told: list[Check] = []
    checks = run_checks(detector, x, y, LARGE, images=8, progress=told.append)
    assert told == checks
    assert {check.id: check for check in checks}["chance"].figures["chance"] == 0.5


def test_where_memory_runs_out_the_checks_look_at_fewer_images_at_a_time() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    scarce = Scarce(detector, most=5).eval()
    assert run_checks(scarce, x, y, LARGE) == run_checks(detector, x, y, LARGE)
    assert max(scarce.asked) > 5


def test_wrong_use_is_refused_in_one_line() -> None:
    detector, x, y = linear()
    short = run_attack(detector, x[:4], y[:4], AttackSpec(name="fgsm", eps=EPS))
    for arguments in ({"spec_eps": 0.0}, {"images": 0}, {"norm": "l3"}, {"found": {"fgsm": short}}):
        with pytest.raises(UsageError) as error:
            run_checks(detector, x, y, **{"spec_eps": EPS, **arguments})
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="must return logits"):
        run_checks(Planted(after=lambda logits: logits[:, :1]).eval(), x, y, EPS)


def test_the_slack_shrinks_with_the_images() -> None:
    assert limit(0.02, 64) > limit(0.02, 1000) > 0.02
