"""Checks of whether an accuracy under attack can be believed: of the detector, and of the attacks on it.

Each check passes, warns or fails and gives its figures. `robustbench_df.attacks.probes` makes the measurements;
thresholds and sources are in `robustbench_df.attacks.judging` and `robustbench_df.attacks.strength`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from robustbench_df.attacks import judging, strength
from robustbench_df.attacks.grading import Check
from robustbench_df.attacks.probes import Evidence
from robustbench_df.attacks.runner import Attacked
from robustbench_df.attacks.threat import Threat
from robustbench_df.attacks.victim import check_logits
from robustbench_df.errors import UsageError
from robustbench_df.models.detector import frozen

__all__ = ["CHECKS", "Check", "run_checks"]

CHECKS: dict[str, tuple[Callable[[str, Evidence], Check], str]] = {
    "eval-mode": (judging.eval_mode, "nothing"),
    "input-range": (judging.input_range, "nothing"),
    "logits": (judging.logits, "nothing"),
    "repeatable": (judging.repeatable, "nothing"),
    "finite": (judging.finite, "range"),
    "eps-zero": (judging.eps_zero, "right"),
    "saturated": (judging.saturated, "nothing"),
    "gradients": (judging.gradients, "range"),
    "differences": (judging.differences, "range"),
    "quantised": (judging.quantised, "range"),
    "landscape": (judging.landscape, "right"),
    "bounds": (strength.bounds, "right"),
    "fgsm": (strength.beats_fgsm, "right"),
    "overfitting": (strength.overfitting, "right"),
    "black-box": (strength.beats_black_box, "right"),
    "monotone": (strength.monotone, "right"),
    "chance": (strength.chance, "right"),
    "more-steps": (strength.more_steps, "right"),
    "flat-loss": (strength.flat_loss, "right"),
}
"""The checks by name, each with its precondition.

``nothing``: none. ``range``: pixels lie in [0, 1]. ``right``: also, the detector is right on at least one image.
"""

MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.modules.dropout._DropoutNd)
"""Layers that behave differently in train mode if they track running statistics or have a dropout rate above 0."""


def run_checks(
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    spec_eps: float,
    norm: str = "linf",
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    found: Mapping[str, Attacked] | None = None,
    images: int = 64,
    progress: Callable[[Check], None] | None = None,
) -> list[Check]:
    """Run all checks on some of the images and return one `Check` each, in the order of `CHECKS`.

    Args:
        detector: the detector as it will be attacked. Do not change its mode before: a layer in train mode is a
            finding. Its modes, flags and buffers are restored.
        x: images ``[N, C, H, W]`` in [0, 1].
        y: labels ``[N]``, 1 = fake.
        spec_eps, norm: the budget at which the reported accuracy is checked, in pixels of [0, 1].
        ids: int64 ``[N]``, a stable number per image; None: the position.
        seed: key of all randomness.
        found: results of attacks with early stopping on the same ``N`` images within the same budget, by the attack's
            name, ``transfer`` or ``transfer:source``, or any other name. Their norms and bounds are verified, and their
            successes count as those of a gradient attack or of an attack without gradients, by what the attack sees.
        images: most images that are checked, evenly spread over each class. A robust detector costs about 160 forwards
            and 110 backwards per image, plus 300 forwards for each image on which Square must be run. An undefended
            detector at a large budget costs 40 and 12.
        progress: called with every finished check.

    Raises:
        UsageError: the budget is zero or not allowed in the norm, there are no images, ``found`` has results that are
            not of ``N`` images, or no label is 0 or 1.
        ModelError: the detector returns something else than logits ``[N, 2]``.
    """
    if not Threat(norm, spec_eps).eps:
        raise UsageError("checks look at attacks, and eps = 0 allows none; pass the budget to be reported")
    if images < 1 or not len(x):
        raise UsageError(f"checks need images: {len(x)} were given, and at most {images} may be looked at")
    for name, attacked in (found or {}).items():
        if len(attacked) != len(x):
            raise UsageError(f"the results of '{name}' are of {len(attacked)} images, the checks of {len(x)}")
    rows = spread(y, images)
    if not len(rows):
        raise UsageError("labels must be 0 (real) or 1 (fake)")
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    given, modal = answer_as_given(detector, x[rows]), in_train_mode(detector)
    chosen = {name: select(attacked, rows) for name, attacked in (found or {}).items()}
    out = []
    with frozen(detector):
        e = Evidence(detector, x[rows], y[rows], ids[rows], spec_eps, norm, seed, chosen, given, modal)
        for name, (check, needs) in CHECKS.items():
            missing = _missing(e, needs)
            result = check(name, e) if missing is None else Check(name, "not run", missing, {})
            out.append(result)
            if progress is not None:
                progress(result)
    return out


def _missing(e: Evidence, needs: str) -> str | None:
    """Why a check cannot be run; None when it can."""
    if needs != "nothing" and not (float(e.x.min()) >= 0 and float(e.x.max()) <= 1):
        return "pixels outside [0, 1] cannot be attacked"
    if needs == "right" and not bool(e.correct.any()):
        return "the detector is right on none of the images"
    return None


def spread(y: Tensor, images: int) -> Tensor:
    """Positions of up to ``images`` images, half from each class, evenly spaced within it."""
    rows = []
    for label in (0, 1):
        of = (y == label).nonzero().squeeze(1)
        count = min(len(of), (images + 1 - label) // 2)
        rows.append(of[torch.arange(count, device=y.device) * len(of) // max(count, 1)])
    return torch.cat(rows).sort().values


def in_train_mode(detector: nn.Module) -> int:
    """Number of layers that are in train mode and answer differently there."""

    def differs(module: nn.Module) -> bool:
        keeps, drops = getattr(module, "track_running_stats", True), getattr(module, "p", 1.0) > 0
        return isinstance(module, MODAL) and module.training and keeps and drops

    return sum(map(differs, detector.modules()))


def answer_as_given(detector: nn.Module, x: Tensor) -> Tensor | None:
    """Logits ``[N, 2]`` in the mode in which the detector was given; None when all of its modules are in eval mode.

    The buffers (running statistics) and the global random state are restored. For a single image the result is None
    as well: batch statistics of one image need not exist.
    """
    if len(x) < 2 or not any(module.training for module in detector.modules()):
        return None
    kept = [(buffer, buffer.clone()) for buffer in detector.buffers()]
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
            return check_logits(detector(x), len(x))
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def select(attacked: Attacked, rows: Tensor) -> Attacked:
    """Return the results of some images."""
    return Attacked(**{f.name: getattr(attacked, f.name)[rows] for f in fields(Attacked)})
