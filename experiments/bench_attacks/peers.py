"""The libraries we stand beside, each asked in its own words for the same attack (pip install .[peers])."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def torchattacks_fgsm(detector: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    import torchattacks

    return torchattacks.FGSM(detector, eps=eps)(x, y)


def torchattacks_pgd(detector: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step: float) -> Tensor:
    import torchattacks

    return torchattacks.PGD(detector, eps=eps, alpha=step, steps=steps, random_start=False)(x, y)


def foolbox_fgsm(detector: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(detector, bounds=(0, 1), device=x.device)
    return foolbox.attacks.FGSM()(model, x, y, epsilons=eps)[1]


def foolbox_pgd(detector: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step: float) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(detector, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    return attack(model, x, y, epsilons=eps)[1]


def _art(detector: nn.Module, x: Tensor) -> Any:
    """ART's classifier on the detector's own device; images and answers are numpy's, as ART has it."""
    from art.estimators.classification import PyTorchClassifier

    shape, loss, kind = tuple(x.shape[1:]), nn.CrossEntropyLoss(), "gpu" if x.is_cuda else "cpu"
    return PyTorchClassifier(detector, loss, shape, 2, clip_values=(0, 1), device_type=kind)


def _generated(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


def art_fgsm(detector: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    from art.attacks.evasion import FastGradientMethod

    attack = FastGradientMethod(_art(detector, x), eps=eps, batch_size=64)
    return _generated(attack, x, y)


def art_pgd(detector: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step: float) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescent

    attack = ProjectedGradientDescent(
        _art(detector, x), eps=eps, eps_step=step, max_iter=steps, batch_size=64, verbose=False
    )
    return _generated(attack, x, y)


def autoattack(detector: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 100, queries: int = 5000) -> Tensor:
    """The published components that make sense for two classes: APGD-CE, FAB, Square, with our suite's settings."""
    from pyautoattack import AutoAttack

    components = ["apgd-ce", "fab", "square"]
    adversary = AutoAttack(detector, attacks=components, eps=eps, seed=0, version="custom", device=x.device)
    adversary.verbose = False
    adversary.apgd.n_restarts, adversary.fab.n_restarts, adversary.square.n_queries = 2, 1, queries
    apgd = adversary.apgd
    apgd.n_iter = adversary.fab.n_iter = steps
    # It reckons the intervals between its checks once, when it is made.
    apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(p * steps), 1) for p in (0.22, 0.06, 0.03))
    return adversary.run_standard_evaluation(x, y, batch_size=64)[0]


FGSM = {"torchattacks": torchattacks_fgsm, "foolbox": foolbox_fgsm, "art": art_fgsm}
PGD = {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd, "art": art_pgd}
