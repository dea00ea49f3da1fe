"""Wrappers: what goes in comes out as the same verdict and the same P(fake); what is no answer is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models.detector import Ensemble
from robustbench_df.models.wrappers import (
    RESOLUTION,
    HardVote,
    OneLogit,
    Probabilities,
    attackable_vote,
    soft_surrogate,
)
from tests.attacks.detectors import Linear, images


class Head(nn.Module):
    """A network that answers with ``function(margin)`` of a linear detector."""

    def __init__(self, function, seed: int = 0) -> None:
        super().__init__()
        self.linear, self.function = Linear(seed), function

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        return self.function(logits[:, 1] - logits[:, 0])


class Says(nn.Module):
    """A network that answers with the same thing whatever it sees."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _: Tensor) -> object:
        return self.answer


def margin(detector: nn.Module, x: Tensor) -> Tensor:
    logits = detector(x)
    assert logits.shape == (len(x), 2)
    return logits[:, 1] - logits[:, 0]


X = images()


@pytest.mark.parametrize("shape", [lambda z: z, lambda z: z[:, None]])
def test_one_logit_keeps_the_margin_and_its_gradient(shape) -> None:
    x = X.clone().requires_grad_(True)
    got = margin(OneLogit(Head(shape)), x)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    linear = Linear()
    assert torch.allclose(got, margin(linear, X), atol=1e-6)
    assert torch.allclose(gradient[0].flatten(), linear.w, atol=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        torch.sigmoid,
        lambda z: torch.sigmoid(z)[:, None],
        lambda z: torch.softmax(torch.stack([-z / 2, z / 2], 1), 1),
    ],
)
def test_probabilities_give_the_logits_back(answer) -> None:
    assert torch.allclose(margin(Probabilities(Head(answer)), X), margin(Linear(), X), atol=1e-4)


def test_the_clamp_is_finite_symmetric_and_where_it_is_said_to_be() -> None:
    got = margin(Probabilities(Says(torch.tensor([0.0, 1.0, 0.5, float("nan")]))), X[:4])
    edge = math.log((1 - RESOLUTION) / RESOLUTION)
    assert got[:3].tolist() == pytest.approx([-edge, edge, 0], rel=1e-5)
    assert got[3].isnan()


def test_two_columns_resolve_what_one_has_rounded_off() -> None:
    detector = Probabilities(Head(lambda z: torch.softmax(torch.stack([-20 - z / 2, 20 + z / 2], 1), 1)))
    x = X.clone().requires_grad_(True)
    got = margin(detector, x)
    assert torch.allclose(got, 40 + margin(Linear(), X), atol=1e-3)
    assert (torch.autograd.grad(got.sum(), x)[0].flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("wrapper", "answer", "message"),
    [
        (OneLogit, torch.zeros(2, 2), "one logit per image"),
        (OneLogit, torch.zeros(3), "one logit per image"),
        (OneLogit, "fake", "returned str"),
        (Probabilities, torch.zeros(2, 3), "P\\(fake\\)"),
        (Probabilities, torch.tensor([0.2, 3.0]), "3, which is no probability"),
        (Probabilities, torch.tensor([0.2, -0.1]), "-0.1, which is no probability"),
        (Probabilities, torch.tensor([[0.2, 0.8], [0.9, 0.9]]), "add up to 1.8"),
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(wrapper, answer, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        wrapper(Says(answer))(X[:2])
    assert "\n" not in str(caught.value)


def test_a_vote_counts_members() -> None:
    members = [Linear(seed) for seed in range(3)]
    fake = torch.stack([margin(member, X) > 0 for member in members]).float().mean(0)
    assert float(fake.std()) > 0
    assert torch.allclose(margin(HardVote(members), X), fake - 0.5)


def test_a_vote_is_flat_and_tells_a_nan() -> None:
    x = X.clone().requires_grad_(True)
    assert not HardVote([Linear(0), Linear(1)])(x).requires_grad
    broken = Says(torch.full((len(X), 2), float("nan")))
    assert margin(HardVote([Linear(), broken]), X).isnan().all()


def test_the_surrogate_has_a_gradient_and_becomes_the_vote() -> None:
    members = [Linear(seed) for seed in range(3)]
    x = X.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(margin(soft_surrogate(members, 1.0), x).sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    p = torch.stack([torch.sigmoid(margin(member, X)) for member in members]).mean(0)
    assert torch.allclose(margin(soft_surrogate(members, 1.0), X), p - 0.5, atol=1e-6)
    assert torch.allclose(margin(soft_surrogate(members, 1e-6), X), margin(HardVote(members), X), atol=1e-5)


def test_an_attack_on_the_surrogate_fools_the_vote() -> None:
    members = [Linear(seed, scale=0.3) for seed in range(3)]
    vote = HardVote(members)
    y = (margin(vote, X) > 0).long()
    spec = AttackSpec(name="pgd", eps=0.1, steps=20, early_stop=False)
    direct = run_attack(vote, X, y, spec)
    assert not direct.success.any(), "nothing to climb on a step"
    crafted = run_attack(soft_surrogate(members, 1.0), X, y, spec)
    fooled = (margin(vote, crafted.x_adv) > 0).long() != y
    assert fooled[crafted.correct].all()
    assert crafted.correct.float().mean() > 0.8  # elsewhere surrogate and vote disagree from the start


def test_an_attackable_vote_answers_as_the_vote_and_leads_back_as_the_surrogate() -> None:
    members = [Linear(k) for k in range(3)]
    x = X.clone().requires_grad_(True)
    taught, soft = attackable_vote(members), soft_surrogate(members)
    assert torch.equal(margin(taught, X), margin(HardVote(members), X))
    ways = [torch.autograd.grad(margin(vote, x).sum(), x)[0] for vote in (taught, soft)]
    assert ways[0].abs().sum() > 0
    torch.testing.assert_close(*ways)


def test_votes_and_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="at least one"):
        HardVote([])
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="temperature"):
            soft_surrogate([Linear()], temperature)


def test_wrapped_networks_join_an_ensemble() -> None:
    both = Ensemble([OneLogit(Head(lambda z: z)), Probabilities(Head(torch.sigmoid))])
    assert torch.allclose(margin(both, X), margin(Linear(), X), atol=1e-4)
