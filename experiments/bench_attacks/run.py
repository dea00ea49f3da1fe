"""Our attacks against torchattacks, foolbox, ART and AutoAttack: same detector, images and threads. See README.md."""

from __future__ import annotations

from typing import Any

import peers
import torch
from timing import compare
from torch import Tensor

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(f"{name}, {what}", {"model": name, "what": what}) for name in config["models"] for what in TIMED]


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    name = lab.config["model"]
    detector = lab.trained(lab.recipe(model={"name": name}, phase1=lab.config["phase1_of"].get(name, {})))
    x, y, _ = lab.batch(lab.attacked_index)
    return TIMED[lab.config["what"]](lab.config, detector, x, y)


def fgsm_sweep(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, grid = x[: config["images"]], y[: config["images"]], config["fgsm_epsilons"]

    def ours() -> object:
        return rdf.run_sweep(d, x, y, rdf.AttackSpec(name="fgsm"), grid, cumulative=False)

    # Success is not what libraries report: each must still score what it made, as any user has to.
    them = {k: lambda f=f: [right(d, f(d, x, y, eps), y) for eps in grid] for k, f in peers.FGSM.items()}
    return compare(ours, them, config["pairs"])


def pgd(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, spec = x[: config["images"]], y[: config["images"]], pgd_spec(config)
    them = {k: lambda f=f: right(d, f(d, x, y, *settings(spec)), y) for k, f in peers.PGD.items()}
    return compare(lambda: rdf.run_attack(d, x, y, spec), them, config["pairs"])


def standard(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, eps = x[: config["standard_images"]], y[: config["standard_images"]], config["standard_eps"]
    them = {"autoattack": lambda: right(d, peers.autoattack(d, x, y, eps), y)}
    return compare(lambda: rdf.run_suite(d, x, y, "standard", eps=eps), them, 1)


def agreement(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Robust accuracies on the same images: ours must not be above theirs."""
    spec = pgd_spec(config)
    them = {k: float(right(d, f(d, x, y, *settings(spec)), y).float().mean()) for k, f in peers.PGD.items()}
    return {f"{k}, robust": v for k, v in {"ours": rdf.run_attack(d, x, y, spec).robust_accuracy, **them}.items()}


TIMED = {"FGSM": fgsm_sweep, "PGD": pgd, "standard": standard, "agreement": agreement}


def pgd_spec(config: dict[str, Any]) -> rdf.AttackSpec:
    eps, steps = config["pgd_eps"], config["pgd_steps"]
    return rdf.AttackSpec(name="pgd", eps=eps, steps=steps, step_size=2.5 * eps / steps)


def settings(spec: rdf.AttackSpec) -> tuple[float, int, float]:
    return spec.eps, spec.steps, spec.step_size


@torch.no_grad()
def right(d: rdf.Detector, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([d(part).argmax(1) for part in x.split(64)]) == y


if __name__ == "__main__":
    rdf.experiment_main(__file__)
