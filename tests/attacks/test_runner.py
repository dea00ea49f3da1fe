"""The runner and the victim: what counts, what it costs, and that nothing is left changed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.attacks.runner import run_attack, run_sweep
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import GEOMETRY, NORMS
from robustbench_df.attacks.victim import TOLERANCE
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models.detector import Detector
from tests.attacks.detectors import Linear, Small, images, labels_of


class Counted(nn.Module):
    """Count the images that pass forwards, and those whose gradient is computed."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.net(x)

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_optimum_of_a_linear_detector(norm: str) -> None:
    detector, x = Linear(), images()
    y, distance = labels_of(detector, x), detector.distance(x, norm)
    spec = AttackSpec(name="pgd", norm=norm, steps=100)
    over = run_attack(detector, x, y, spec, eps=distance * 1.02)
    under = run_attack(detector, x, y, spec, eps=distance * 0.98)
    assert over.success.all()
    assert not under.success.any()
    assert (over.distance <= distance * 1.02 + 1e-5).all()
    assert torch.isinf(under.nearest).all()


def test_fgsm_over_k_budgets_costs_one_plus_k_forwards_and_one_backward() -> None:
    detector, x = Counted(Linear()), images(10)
    y = labels_of(detector, x)
    detector.forwards = 0
    found = run_sweep(detector, x, y, AttackSpec(name="fgsm"), [0.01, 0.02, 0.03], cumulative=False)
    assert sum(int(f.forwards.sum()) for f in found) == detector.forwards == 4 * 10
    assert sum(int(f.backwards.sum()) for f in found) == detector.backwards == 10


def test_pgd_stops_an_image_at_its_first_success() -> None:
    detector, x = Counted(Linear()), images(1)
    y = labels_of(detector, x)
    detector.forwards = 0
    distance = detector.net.distance(x, "linf")
    # Steps of a tenth of the way: fooled at iterate 11, after as many backwards; the last iterate is only looked at.
    spec = AttackSpec(name="pgd", eps=min(float(distance) * 2, 1), step_size=float(distance) * 0.095, steps=40)
    found = run_attack(detector, x, y, spec)
    assert found.success.all()
    assert int(found.first_step) == 11
    assert int(found.forwards) == detector.forwards == 12
    assert int(found.backwards) == detector.backwards == 11


def test_only_images_right_when_clean_are_attacked() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    y[::3] = 1 - y[::3]
    found = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.2))
    assert not found.correct[::3].any()
    assert not found.success[::3].any()
    assert torch.equal(found.x_adv[::3], x[::3])
    assert (found.forwards[::3] == 1).all()
    assert found.robust_accuracy == 0


def test_images_wrong_when_clean_are_attacked_where_transfer_asks_for_it() -> None:
    detector, x = Linear(), images()
    y = 1 - labels_of(detector, x)
    spec = AttackSpec(name="pgd", eps=0.05, steps=3, early_stop=False)
    assert torch.equal(run_attack(detector, x, y, spec).x_adv, x)
    moved = run_attack(detector, x, y, spec, only_correct=False)
    assert ((moved.x_adv - x).flatten(1).abs().amax(1) > 0).all()
    with torch.no_grad():
        torch.testing.assert_close(moved.logits, detector(moved.x_adv))  # of the image that is handed back


def test_eps_zero_changes_nothing() -> None:
    detector, x = Small(), images()
    y = labels_of(detector, x)
    for name in ("fgsm", "pgd", "noise", "gaussian"):
        found = run_attack(detector, x, y, AttackSpec(name=name, eps=0))
        assert not found.success.any()
        assert torch.equal(found.x_adv, x)


@pytest.mark.parametrize("name", ["pgd", "noise", "gaussian"])
def test_the_same_image_meets_the_same_attack_alone_in_a_batch_and_in_any_order(name: str) -> None:
    detector, x = Small(), images(12)
    y, ids = labels_of(detector, x), torch.arange(100, 112)
    more = {"random_start": True, "restarts": 2} if name == "pgd" else {}
    spec = AttackSpec(name=name, eps=0.03, steps=5, **more)
    whole = run_attack(detector, x, y, spec, ids=ids, seed=7)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mixed = run_attack(detector, x[order], y[order], spec, ids=ids[order], seed=7, batch_size=5)
    alone = run_attack(detector, x[3:4], y[3:4], spec, ids=ids[3:4], seed=7)
    torch.testing.assert_close(mixed.x_adv, whole.x_adv[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.x_adv, whole.x_adv[3:4], atol=1e-5, rtol=0)
    assert torch.equal(mixed.success, whole.success[order])
    again = run_attack(detector, x, y, spec, ids=ids, seed=7)
    assert torch.equal(again.x_adv, whole.x_adv)
    if name != "pgd":
        assert not torch.equal(run_attack(detector, x, y, spec, ids=ids, seed=8).logits, whole.logits)


def test_modes_flags_and_statistics_are_restored() -> None:
    detector, x = Small().train(), images()
    y = labels_of(detector, x)
    detector.net[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.1, steps=3))
    assert detector.training
    assert detector.net[1].training
    assert not detector.net[0].weight.requires_grad
    assert detector.net[4].weight.requires_grad
    assert all(p.grad is None for p in detector.parameters())
    assert all(torch.equal(before[k], v) for k, v in detector.state_dict().items())


def test_a_cumulative_sweep_never_rises_and_an_independent_one_equals_single_runs() -> None:
    detector, x = Small(), images()
    y = labels_of(detector, x)
    epsilons = [0.06, 0.01, 0.03]
    spec = AttackSpec(name="pgd", steps=4)
    together = run_sweep(detector, x, y, spec, epsilons)
    by_eps = [together[1], together[2], together[0]]
    for small, large in pairwise(by_eps):
        assert (large.success | ~small.success).all()
    apart = run_sweep(detector, x, y, spec, epsilons, cumulative=False)
    for eps, found in zip(epsilons, apart, strict=True):
        single = run_attack(detector, x, y, AttackSpec(name="pgd", steps=4, eps=eps))
        assert torch.equal(found.success, single.success)
        torch.testing.assert_close(found.x_adv, single.x_adv)


def test_one_target_attacks_only_the_other_class() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    found = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.3, target="real"))
    assert found.success[y == 1].all()
    assert not found.success[y == 0].any()


def test_without_early_stop_the_last_iterate_comes_back() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    found = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.05, steps=10, early_stop=False))
    torch.testing.assert_close(GEOMETRY["linf"].length(found.x_adv - x), torch.full((len(x),), 0.05))
    assert (found.forwards == 11).all()


@pytest.mark.parametrize("name", ["apgd", "fab", "square", "hopskipjump", "deepfool", "noise"])
def test_without_early_stop_what_comes_back_is_what_succeeded(name: str) -> None:
    """The last image that was queried may be a candidate that these attacks had rejected."""
    detector, x = Small().eval(), images()
    y = labels_of(detector, x)
    queries = 300 if name in ("square", "hopskipjump") else None
    found = run_attack(detector, x, y, AttackSpec(name=name, eps=0.05, queries=queries, early_stop=False))
    assert found.success.any()
    with torch.no_grad():
        assert torch.allclose(detector(found.x_adv), found.logits, atol=1e-5)
    margin = torch.where(y == 1, 1, -1) * (found.logits[:, 1] - found.logits[:, 0])
    assert (margin[found.success] <= 0).all()
    assert (found.distance <= 0.05 + 2 * TOLERANCE).all()


def test_the_training_fgsm_is_the_attack() -> None:
    detector, x = Small().eval(), images()
    y = labels_of(detector, x)
    found = run_attack(detector, x, y, AttackSpec(name="fgsm", eps=0.03, early_stop=False))
    torch.testing.assert_close(found.x_adv, fgsm(detector, x, y, 0.03), atol=1e-6, rtol=0)


def test_what_is_not_a_number_is_counted_and_no_success() -> None:
    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            moved = (x - x.round(decimals=2)).flatten(1).abs().amax(1) > 1e-4
            return torch.where(moved[:, None], logits * float("nan"), logits)

    x = images().round(decimals=2)
    detector = Broken()
    y = labels_of(detector, x)
    found = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.033, steps=3))
    assert found.correct.all()
    assert (found.not_finite > 0).all()
    assert not found.success.any()


def test_memory_running_out_halves_the_batch() -> None:
    class Tight(Linear):
        largest = 0

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 6:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            type(self).largest = max(self.largest, len(x))
            return super().forward(x)

    x = images(20)
    y = labels_of(Linear(), x)
    found = run_attack(Tight(), x, y, AttackSpec(name="pgd", eps=0.1, steps=2), batch_size=16)
    assert len(found) == 20
    assert Tight.largest == 4


def test_images_outside_the_unit_range_and_other_outputs_are_refused() -> None:
    detector, x = Linear(), images()
    y = labels_of(detector, x)
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        run_attack(detector, x * 255, y, "fgsm")
    with pytest.raises(UsageError, match="did you mean 'fgsm'"):
        run_attack(detector, x, y, "fgms")
    with pytest.raises(UsageError, match="labels"):
        run_attack(detector, x, y + 1, "fgsm")
    one_logit = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with pytest.raises(ModelError, match="OneLogit"):
        run_attack(one_logit, x, y, "fgsm")


def test_momentum_and_restarts_change_the_path_and_never_weaken_it() -> None:
    detector, x = Small(), images(40)
    y = labels_of(detector, x)
    plain = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.02, steps=3))
    more = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.02, steps=3, restarts=4))
    assert (more.success | ~plain.success).all()
    moved = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.02, steps=3, momentum=0.9, early_stop=False))
    still = run_attack(detector, x, y, AttackSpec(name="pgd", eps=0.02, steps=3, early_stop=False))
    assert not torch.equal(moved.x_adv, still.x_adv)


def test_a_detector_of_ours_is_asked_in_the_layout_that_is_fast_and_anyone_elses_as_it_is() -> None:
    seen: list[bool] = []

    class Layout(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    x = images(6)
    y, spec = labels_of(Linear(), x), AttackSpec(name="pgd", eps=0.001, steps=2)
    plain = run_attack(Layout(), x, y, spec)
    assert not any(seen)
    seen.clear()
    ours = run_attack(Detector(Layout(), mean=(0, 0, 0), std=(1, 1, 1)), x, y, spec)
    assert all(seen)
    torch.testing.assert_close(ours.x_adv, plain.x_adv)
