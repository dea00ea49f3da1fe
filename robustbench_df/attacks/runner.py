"""`run_attack`: any attack over any number of images, in batches that shrink when memory runs out.

The runner freezes the detector and restores it, shares the clean pass between budgets, and returns what the victims
measured. It does not rely on what an attack itself claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from robustbench_df.attacks.catalogue import attack_named
from robustbench_df.attacks.clean import CleanPasses
from robustbench_df.attacks.spec import Attack, AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import ModelError, UsageError
from robustbench_df.memory import is_out_of_memory, keep_freed_memory
from robustbench_df.models.detector import frozen, margins
from robustbench_df.models.footprint import fitting_batch

BATCH = 64
"""Images attacked together. Larger batches hold more activations for the gradient and gain nothing on a CPU."""

_CLASSES = {"real": 0, "fake": 1}


@dataclass(frozen=True, eq=False)
class Attacked:
    """The result of an attack on each of N images.

    Attributes:
        x_adv: ``[N, C, H, W]`` in [0, 1]: the nearest image that fooled the detector, else the one within the budget
            that came closest to it.
        logits: ``[N, 2]`` of ``x_adv``, as the detector returned them during the attack.
        correct: bool ``[N]``, right on the clean image. Only these are attacked.
        success: bool ``[N]``, right on the clean image and fooled within the budget; ``correct & ~success`` is robust.
        first_step: int64 ``[N]``, number of queries up to and including the first success; -1: no success.
        distance: ``[N]`` from the clean image to ``x_adv``, in the norm of the threat.
        nearest: ``[N]`` distance of the nearest image that fooled the detector, at any budget; inf: none did.
        forwards, backwards: int64 ``[N]``, passes through the detector.
        not_finite, zero_gradients: int64 ``[N]``, number of non-finite answers or gradients, and of zero gradients.
        clean_logits: ``[N, 2]`` of the clean image.
        by: int64 ``[N]``, which attack of a suite fooled the image, by its position; -1: none.
    """

    x_adv: Tensor
    logits: Tensor
    correct: Tensor
    success: Tensor
    first_step: Tensor
    distance: Tensor
    nearest: Tensor
    forwards: Tensor
    backwards: Tensor
    not_finite: Tensor
    zero_gradients: Tensor
    clean_logits: Tensor
    by: Tensor

    def __len__(self) -> int:
        return len(self.x_adv)

    @property
    def robust(self) -> Tensor:
        """bool ``[N]``: right on the clean image and not fooled."""
        return self.correct & ~self.success

    @property
    def robust_accuracy(self) -> float:
        """Share of robust images."""
        return float(self.robust.float().mean())

    @property
    def score(self) -> Tensor:
        """``logit_fake - logit_real`` ``[N]`` of ``x_adv``."""
        return margins(self.logits)


def run_attack(
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec | str,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    eps: Tensor | None = None,
    only_correct: bool = True,
    clean: CleanPasses | None = None,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> Attacked:
    """Attack ``detector`` on ``x`` and measure the result.

    Args:
        detector: maps ``[N, 3, H, W]`` in [0, 1] to logits ``[N, 2]``; attacked in eval mode with frozen parameters,
            both restored afterwards.
        x: images ``[N, C, H, W]`` in [0, 1].
        y: labels ``[N]``, 1 = fake.
        spec: the attack, or its name with default settings.
        ids: int64 ``[N]``, a stable number per image; None: the position. An image with the same id gets the same
            random numbers alone, in any batch and in any order.
        seed: key of all randomness.
        eps: float ``[N]``, a budget per image instead of the spec's.
        only_correct: do not attack images that are wrong when clean. False attacks them too, which transfer needs,
            because another detector may be right on them; ``correct`` is then True for all images.
        clean: stored clean passes that several calls on the same images share, such as FGSM at one budget each, or PGD.
        batch_size: images attacked together. On a CPU fewer if they are large; halved while memory runs out.
        progress: called with the number of images of each finished batch.

    Raises:
        UsageError: the attack is unknown or does not support the norm or a parameter, or ``x`` or ``y`` is refused by
            `check_inputs`.
        ModelError: the detector returns something else than logits ``[N, 2]``, or memory runs out with one image.
    """
    spec = AttackSpec(name=spec) if isinstance(spec, str) else spec
    budgets = torch.full((len(x),), spec.eps) if eps is None else eps
    (out,) = _run(
        detector,
        x,
        y,
        spec,
        [budgets],
        ids=ids,
        seed=seed,
        only_correct=only_correct,
        clean=clean,
        batch_size=batch_size,
        progress=progress,
    )
    return out


def run_sweep(
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    epsilons: Sequence[float],
    *,
    cumulative: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> list[Attacked]:
    """Attack at several budgets in one call; return one `Attacked` per budget, in the order of ``epsilons``.

    With ``cumulative``, budgets are attacked in rising order: an image fooled at one budget counts as fooled at every
    larger one (the adversarial image lies inside that ball too), and the attack on any other image continues from its
    worst image at the previous budget. Otherwise every budget is attacked independently, as libraries do, and the
    accuracy may then rise with the budget by chance. Either way the clean pass, and for FGSM the gradient, is computed
    once: its passes are counted with the smallest budget.
    """
    order = sorted(range(len(epsilons)), key=lambda k: epsilons[k])
    for value in epsilons:
        spec.replaced(eps=value)  # refuses an invalid budget
    budgets = [torch.full((len(x),), epsilons[k]) for k in order]
    found = _run(
        detector,
        x,
        y,
        spec,
        budgets,
        ids=ids,
        seed=seed,
        cumulative=cumulative,
        batch_size=batch_size,
        progress=progress,
    )
    return [found[order.index(k)] for k in range(len(epsilons))]


def _run(
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    budgets: list[Tensor],
    *,
    ids: Tensor | None,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None] | None,
    cumulative: bool = True,
    only_correct: bool = True,
    clean: CleanPasses | None = None,
) -> list[Attacked]:
    attack = attack_named(spec.name)
    check_inputs(x, y, spec, attack)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)
    budgets = [budget.to(x.device, torch.float32) for budget in budgets]
    parts: list[list[Attacked]] = []
    done, size = 0, fitting_batch(batch_size, detector, tuple(x.shape[2:]), x.device, gradient=True)
    keep_freed_memory()
    with frozen(detector):
        while done < len(x):
            part = slice(done, done + size)
            victim = Victim(
                detector,
                x[part],
                y[part].to(x.device),
                ids[part],
                spec.norm,
                budgets[0][part],
                key=(seed, spec.name),
                eot=spec.eot,
                limit=spec.queries or 0,
                stop=spec.early_stop and not attack.minimal,
            )
            try:
                if clean is None:
                    victim.open(gradient=attack.from_clean(spec))
                else:
                    clean.open(victim)
                own = [b[part] for b in budgets]
                found = _attack_batch(victim, attack, spec, own, cumulative=cumulative, only_correct=only_correct)
                parts.append(found)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ModelError("out of memory with a single image; attack a smaller detector or image") from error
                size //= 2
                continue
            done += len(victim.x)
            if progress is not None:
                progress(len(victim.x))
    return [concatenate([part[k] for part in parts]) for k in range(len(budgets))]


def _attack_batch(
    victim: Victim, attack: Attack, spec: AttackSpec, budgets: list[Tensor], *, cumulative: bool, only_correct: bool
) -> list[Attacked]:
    """Attack one batch, whose clean pass has been made, at every budget."""
    if not only_correct:
        victim.correct, victim.alive = torch.ones_like(victim.correct), torch.ones_like(victim.alive)
    chosen = victim.y != (-1 if spec.target is None else _CLASSES[spec.target])
    out = []
    for k, eps in enumerate(budgets):
        if k:
            victim = victim.resume(eps, carry=cumulative)
        victim.alive &= chosen & (eps > 0)  # without a budget there is nothing to try
        attack.run(victim, spec)
        out.append(measured(victim, *_result(victim, attack, spec)))
    return out


def _result(victim: Victim, attack: Attack, spec: AttackSpec) -> tuple[Tensor, Tensor]:
    """Return the images that stand for a finished attack, and their logits.

    Without ``early_stop`` it is the last iterate of attacks that are known for it (`Attack.returns_last`). Of others
    the last image that they queried may be one that they had rejected, so it is the lowest margin within the budget, or
    the nearest success if they minimise the distance. With ``early_stop`` it is the nearest success.
    """
    if not spec.early_stop and attack.returns_last:
        return victim.last, victim.last_logits
    return victim.result() if spec.early_stop or attack.minimal else (victim.worst_x, victim.worst_logits)


def measured(victim: Victim, x_adv: Tensor, logits: Tensor) -> Attacked:
    """Return the victim's record of a finished attack, for which the images ``x_adv`` with their ``logits`` stand."""
    return Attacked(
        x_adv=x_adv.detach(),
        logits=logits,
        correct=victim.correct,
        success=victim.success,
        first_step=torch.where(victim.success, victim.first_step, -1),
        distance=victim.geometry.length(x_adv - victim.x),
        nearest=victim.distance,
        forwards=victim.forwards,
        backwards=victim.backwards,
        not_finite=victim.not_finite,
        zero_gradients=victim.zero_gradients,
        clean_logits=victim.clean_logits,
        by=victim.success.long() - 1,
    )


def check_inputs(x: Tensor, y: Tensor, spec: AttackSpec, attack: Attack) -> None:
    """Refuse invalid images or labels, and settings that the attack does not support.

    Raises:
        UsageError: the attack does not support the norm or a parameter; ``x`` is not a non-empty float tensor
            ``[N, C, H, W]`` in [0, 1] with N labels; or a label is not 0 or 1. The message names the value.
    """
    attack.check(spec)
    if x.ndim != 4 or not x.is_floating_point() or len(x) != len(y) or not len(x):
        raise UsageError(
            f"an attack takes float images [N, C, H, W] and labels [N], not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"pixels lie in [{low:.3g}, {high:.3g}]; attacks take [0, 1], normalisation belongs in the detector"
        )
    if not bool(((y == 0) | (y == 1)).all()):
        raise UsageError("labels must be 0 (real) or 1 (fake)")


def concatenate(parts: Sequence[Attacked]) -> Attacked:
    """Join the results of consecutive batches."""
    if len(parts) == 1:
        return parts[0]
    return Attacked(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Attacked)})


def merge(found: Attacked, more: Attacked, rows: Tensor, number: int) -> Attacked:
    """Merge a further attack, number ``number`` of a suite, made on the images ``rows`` not fooled in ``found``.

    Its successes are taken over. Of two failures, the one whose score is nearer to the wrong verdict is kept as the
    worst case. Passes are added.
    """
    out = {f.name: getattr(found, f.name).clone() for f in fields(Attacked)}
    towards_wrong = torch.where(margins(more.clean_logits) > 0, -1.0, 1.0)
    taken = more.success | ((more.score - found.score[rows]) * towards_wrong > 0)
    for name in ("x_adv", "logits", "distance"):
        out[name][rows[taken]] = getattr(more, name)[taken]
    won = rows[more.success]
    out["success"][won], out["by"][won] = True, number
    out["first_step"][won] = found.forwards[won] + more.first_step[more.success]
    out["nearest"][rows] = torch.minimum(found.nearest[rows], more.nearest)
    for name in ("forwards", "backwards", "not_finite", "zero_gradients"):
        out[name][rows] += getattr(more, name)
    return Attacked(**out)
