"""Measurements for `robustbench_df.attacks.checks`: attacks and plain forwards on a few images, each made only once.

This module grades nothing and uses no internals of an attack: it only calls `run_attack` and the detector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from robustbench_df import rng
from robustbench_df.attacks.catalogue import ATTACKS, access_of
from robustbench_df.attacks.gradient import STEP_SHARE
from robustbench_df.attacks.runner import BATCH, Attacked, run_attack, run_sweep
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import GEOMETRY
from robustbench_df.attacks.victim import check_logits
from robustbench_df.memory import halving
from robustbench_df.models.detector import margins
from robustbench_df.models.footprint import fitting_batch

STEPS = 20
"""Steps of the checked PGD, as in the suite `quick`."""

FLAT_FROM = 0.9
"""Share of the steps after which the loss should be flat (Pintor et al. 2022, arXiv:2106.09947: the last 10 steps)."""

FGSM_PARTS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the FGSM step at which images on the line to its end point are evaluated."""

DRAWS, QUERIES = 20, 300
"""Noise draws and Square queries: far fewer than these attacks need, so it is significant if they beat PGD."""

REPEATS = 3
"""Further forwards on the same images (AutoAttack's `check_randomized` makes 5 in all)."""

DIFFERENCES = (1e-4, 1e-3, 1e-2)
"""Step sizes of the finite differences in pixels of [0, 1]: from just above float32 noise, through TF32 noise, to the
scale of an attack. A correct gradient agrees for at least one of them, a wrong one for none."""

INWARDS = 0.02
"""Distance of the pixels from 0 and 1 for finite differences: above the largest step, so that none leaves [0, 1]."""

NUDGE, NUDGED = 1e-5, 32
"""Size of the change, and number of the changed pixels, that detect a quantised input. With 255 levels, under a tenth
of the images cross a level, while a smooth detector in float32 still gives a different answer."""

RANDOM_STEPS = 4
"""Number of random steps, the best of which is compared with one step along the gradient."""


@dataclass(eq=False)
class Evidence:
    """Measurements on N images, made on first use. The detector must be frozen and in eval mode as long as it is used.

    Args:
        detector: frozen by the caller.
        x, y, ids: images ``[N, C, H, W]``, labels, a stable number per image.
        eps, norm: the budget at which the reported accuracy is checked.
        seed: key of all randomness.
        found: results of other attacks on the same images within the same budget.
        given: logits in the mode in which the detector came (`answer_as_given`).
        modal: number of layers that came in train mode (`in_train_mode`).
    """

    detector: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    eps: float
    norm: str
    seed: int
    found: Mapping[str, Attacked]
    given: Tensor | None
    modal: int

    def __len__(self) -> int:
        return len(self.x)

    def logits(self, x: Tensor, size: int = BATCH) -> Tensor:
        """Logits ``[N, 2]``, computed outside any attack."""

        def answers(few: int) -> Tensor:
            with torch.no_grad():
                return torch.cat([check_logits(self.detector(part), len(part)) for part in x.split(few)])

        return halving(self._fitting(size, gradient=False), answers)

    def _fitting(self, most: int, *, gradient: bool) -> int:
        return fitting_batch(most, self.detector, tuple(self.x.shape[2:]), self.x.device, gradient=gradient)

    def signed(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """``logit_true - logit_wrong`` ``[n]`` of the logits of ``rows``; None: of all images."""
        score, y = margins(logits), self.y if rows is None else self.y[rows]
        return torch.where(y == 1, score, -score)

    def margin(self, x: Tensor) -> Tensor:
        """Margin ``[N]``, computed outside any attack."""
        return self.signed(self.logits(x))

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient ``[N, C, H, W]`` of ``-margin``; zero if the detector is not differentiable in the pixels."""

        def gradients(few: int) -> Tensor:
            return torch.cat([self._gradient(*part) for part in zip(x.split(few), self.y.split(few), strict=True)])

        return halving(self._fitting(BATCH, gradient=True), gradients)

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            logits = check_logits(self.detector(leaf), len(x))
            wrong = (logits[:, 0] - logits[:, 1]) * (y * 2 - 1)
            return torch.autograd.grad(wrong.sum(), leaf)[0] if wrong.requires_grad else torch.zeros_like(x)

    # Plain forwards.

    @cached_property
    def clean_logits(self) -> Tensor:
        """Logits ``[N, 2]`` of the clean images."""
        return self.logits(self.x)

    @cached_property
    def clean(self) -> Tensor:
        """Margins ``[N]`` of the clean images."""
        return self.signed(self.clean_logits)

    @cached_property
    def correct(self) -> Tensor:
        """bool ``[N]``: the detector is right on the clean image."""
        return self.clean > 0

    @cached_property
    def scale(self) -> float:
        """Mean absolute clean margin, without non-finite ones."""
        sizes = self.clean.abs()[torch.isfinite(self.clean)]
        return float(sizes.mean()) if len(sizes) else 1.0

    @cached_property
    def repeats(self) -> Tensor:
        """Margins ``[REPEATS, N]`` of the clean images, computed again."""
        return torch.stack([self.margin(self.x) for _ in range(REPEATS)])

    @cached_property
    def by_halves(self) -> Tensor:
        """Margins ``[N]`` of the clean images, computed in batches of a different composition."""
        return self.signed(self.logits(self.x, max(min(len(self), BATCH) // 2, 1)))

    # Gradients.

    @cached_property
    def clean_gradient(self) -> Tensor:
        """``[N, C, H, W]``, of ``-margin`` at the clean images."""
        return self.gradient(self.x)

    @cached_property
    def differences(self) -> dict[str, list[float]]:
        """Disagreement of gradient and central differences by direction, one number per step size in `DIFFERENCES`.

        The directions are ``along``, the gradient's sign, and ``across``, random signs. The disagreement is the median
        over images of ``|seen - predicted| / max(|seen|, |predicted|)``: 0 is agreement; 1 means that the margin
        changed where no change was predicted, or did not change where one was.
        """
        x = self.x.clamp(INWARDS, 1 - INWARDS)
        gradient = torch.nan_to_num(self.gradient(x), nan=0.0, posinf=0.0, neginf=0.0)
        signs = (rng.uniform(self.ids, x.shape[1:], self.seed, "checks", "across") < 0.5).to(x) * 2 - 1
        out = {}
        for name, direction in (("along", gradient.sign()), ("across", signs)):
            slope = (gradient * direction).flatten(1).sum(1)
            out[name] = [self._disagreement(x, direction, slope, step) for step in DIFFERENCES]
        return out

    def _disagreement(self, x: Tensor, direction: Tensor, slope: Tensor, step: float) -> float:
        seen = (self.margin(x - step * direction) - self.margin(x + step * direction)) / (2 * step)
        largest = torch.maximum(seen.abs(), slope.abs())
        apart = torch.where(largest > 0, (seen - slope).abs() / largest, torch.zeros_like(largest))
        return float(apart[torch.isfinite(apart)].median()) if bool(torch.isfinite(apart).any()) else float("nan")

    @cached_property
    def unmoved(self) -> Tensor:
        """bool ``[N]``: the margin is identical to the last bit when the steepest pixels change by `NUDGE`."""
        x = self.x.clamp(INWARDS, 1 - INWARDS)
        steepness = torch.nan_to_num(self.clean_gradient).flatten(1)
        # Ties, as with a zero gradient, are broken at random: the first pixels would all lie in one corner.
        ranks = rng.uniform(self.ids, steepness.shape[1:], self.seed, "checks", "ties").to(x)
        tiny = torch.finfo(steepness.dtype).tiny
        chosen = (steepness.abs() + tiny * ranks).topk(min(NUDGED, steepness.shape[1]), dim=1).indices
        # The changes follow the gradient, so that their effects add up.
        signs = torch.where(steepness.gather(1, chosen) < 0, -1.0, 1.0)
        nudge = torch.zeros_like(steepness).scatter(1, chosen, NUDGE * signs).reshape_as(x)
        return self.margin(x + nudge) == self.margin(x)

    @cached_property
    def steps_compared(self) -> tuple[Tensor, Tensor]:
        """Change of the margin ``[N]`` by PGD's first step, and by the best of random steps of the same length."""
        gradient = torch.nan_to_num(self.clean_gradient, nan=0.0, posinf=0.0, neginf=0.0)
        geometry, budget = GEOMETRY[self.norm], torch.full_like(self.clean, self.eps)
        step = geometry.ascent(gradient, self.x, 1.0) * (self.eps * STEP_SHARE / STEPS)
        ahead = self.margin(self.x + geometry.project(step, self.x, budget)) - self.clean
        random = []
        for draw in range(RANDOM_STEPS):
            # The same entries, permuted and with random signs, so the length is the same in every norm.
            flat, key = step.flatten(1), (self.seed, "checks", "step", draw)
            order = rng.uniform(self.ids, flat.shape[1:], *key, "order").argsort(1)
            signs = (rng.uniform(self.ids, flat.shape[1:], *key, "sign") < 0.5).to(flat) * 2 - 1
            other = (flat.gather(1, order) * signs).reshape_as(step)
            random.append(self.margin(self.x + geometry.project(other, self.x, budget)) - self.clean)
        return ahead, torch.stack(random).amin(0)

    # Attacks.

    def attack(self, rows: Tensor, **settings: object) -> Attacked:
        """Attack the images ``rows`` in this norm and budget, unless ``settings`` say otherwise."""
        spec = AttackSpec.model_validate({"eps": self.eps, "norm": self.norm, **settings})
        return run_attack(self.detector, self.x[rows], self.y[rows], spec, ids=self.ids[rows], seed=self.seed)

    def fooled(self, rows: Tensor, **settings: object) -> Tensor:
        """bool ``[N]``: fooled by an attack on the images ``rows``; False for all others."""
        out = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        if len(rows):
            out[rows] = self.attack(rows, **settings).success
        return out

    @cached_property
    def all_rows(self) -> Tensor:
        """Positions of all images."""
        return torch.arange(len(self), device=self.x.device)

    @cached_property
    def pgd(self) -> Attacked:
        """PGD within the budget."""
        return self.attack(self.all_rows, name="pgd", steps=STEPS)

    @cached_property
    def fgsm(self) -> list[Attacked]:
        """FGSM at the shares `FGSM_PARTS` of the budget, each attacked independently."""
        spec = AttackSpec.model_validate({"name": "fgsm", "norm": self.norm, "eps": self.eps})
        budgets = [part * self.eps for part in FGSM_PARTS]
        return run_sweep(self.detector, self.x, self.y, spec, budgets, cumulative=False, ids=self.ids, seed=self.seed)

    @cached_property
    def largest(self) -> float:
        """The budget within which every image can become middle grey, so that both classes reach the same image."""
        count = self.x[0].numel()
        reaching = {"linf": 0.5, "l2": 0.5 * math.sqrt(count), "l1": 0.5 * count}[self.norm]
        return max(reaching, self.eps)

    @cached_property
    def sweep(self) -> dict[float, Attacked]:
        """PGD at half, one and two times the budget and at `largest`, attacked independently, in rising order."""
        others = sorted({self.eps / 2, min(2 * self.eps, self.largest), self.largest} - {self.eps})
        spec = AttackSpec.model_validate({"name": "pgd", "norm": self.norm, "steps": STEPS})
        found = run_sweep(self.detector, self.x, self.y, spec, others, cumulative=False, ids=self.ids, seed=self.seed)
        return dict(sorted([(self.eps, self.pgd), *zip(others, found, strict=True)], key=lambda pair: pair[0]))

    @cached_property
    def at_zero(self) -> Attacked:
        """PGD with eps 0, which may not change any pixel."""
        return self.attack(self.all_rows, name="pgd", steps=1, eps=0.0)

    @cached_property
    def white(self) -> Tensor:
        """bool ``[N]``: fooled by PGD or by any attack in ``found`` that sees gradients."""
        return self._any_of({name for name in self.found if access_of(name) == "gradient"}) | self.pgd.success

    @cached_property
    def standing(self) -> Tensor:
        """Positions of images that neither PGD nor anything in ``found`` fooled."""
        return (self.pgd.robust & ~self._any_of(set(self.found))).nonzero().squeeze(1)

    def _any_of(self, names: set[str]) -> Tensor:
        none = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        return torch.stack([none, *(self.found[name].success for name in sorted(names))]).any(0)

    @cached_property
    def black(self) -> dict[str, Tensor]:
        """bool ``[N]`` by attack without gradients: fooled by it, though not by those in `white`.

        Noise always runs on the images that those in `white` did not fool. So does a short Square attack, if it
        supports the norm and ``found`` has none.
        """
        rows = (self.correct & ~self.white).nonzero().squeeze(1)
        out = {"noise": self.fooled(rows, name="noise", steps=DRAWS)}
        if "square" not in self.found and "square" in ATTACKS and self.norm in ATTACKS["square"].norms:
            out["square"] = self.fooled(rows, name="square", queries=QUERIES)
        for name, attacked in self.found.items():
            if access_of(name) not in ("gradient", "unknown"):
                out[name] = attacked.success & ~self.white
        return out

    @cached_property
    def doubled(self) -> Tensor:
        """bool ``[N]``: not fooled before (`standing`), but by PGD with twice the steps and 2 restarts."""
        return self.fooled(self.standing, name="pgd", steps=2 * STEPS, restarts=2)

    @cached_property
    def late(self) -> tuple[Tensor, Tensor, Tensor]:
        """Margins of images that PGD did not fool: clean, lowest after `FLAT_FROM` of its steps, lowest after all."""
        rows = self.pgd.robust.nonzero().squeeze(1)
        after = self.signed(self.pgd.logits[rows], rows)
        if not len(rows):
            return after, after, after
        stride = self.eps * STEP_SHARE / STEPS
        before = self.attack(rows, name="pgd", steps=round(STEPS * FLAT_FROM), step_size=stride)
        return self.clean[rows], self.signed(before.logits, rows), after
