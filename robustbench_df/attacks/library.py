"""Any attack of torchattacks (Kim 2020, arXiv:2010.01950) by name: ``torchattacks:DIFGSM``.

The library only crafts images. The `Victim` then evaluates them like any other query, without projecting them: it
measures success, norm and bounds, and an image outside the budget does not count as a success.

The library draws from the global generators of torch and numpy. For each call they are seeded from the victim's key,
the budget and the images' ids, and restored afterwards. All images of a call share one random stream, so such an attack
is reproducible only for the same images in the same batch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_df import rng
from robustbench_df.attacks.spec import Access, Attack, AttackSpec
from robustbench_df.attacks.threat import NORMS
from robustbench_df.attacks.victim import Victim, check_logits
from robustbench_df.errors import RdfError, UsageError, kind_and_line, nearest
from robustbench_df.memory import is_out_of_memory
from robustbench_df.models.detector import frozen

PREFIX = "torchattacks:"


class _Kind(NamedTuple):
    """Properties of a library class that the library does not expose to programs."""

    norms: tuple[str, ...] = ("linf",)
    access: Access = "gradient"
    minimal: bool = False


_KINDS = {
    "APGD": _Kind(("linf", "l2")),
    "CW": _Kind(("l2",), minimal=True),
    "DeepFool": _Kind(("l2",), minimal=True),
    "EADEN": _Kind(("l1", "l2"), minimal=True),
    "EADL1": _Kind(("l1",), minimal=True),
    "FAB": _Kind(("linf", "l2"), minimal=True),  # its L1 ends in an UnboundLocalError
    "PGDL2": _Kind(("l2",)),
    "PGDRSL2": _Kind(("l2",)),
    "SPSA": _Kind(access="score"),
    "Square": _Kind(("linf", "l2"), "score"),
    # These minimise the number of changed pixels, or use no norm at all, so they may be judged in any norm.
    "GN": _Kind(NORMS, "none"),
    "JSMA": _Kind(NORMS),
    "OnePixel": _Kind(NORMS, "score"),
    "Pixle": _Kind(NORMS, "score"),
    "SparseFool": _Kind(NORMS, minimal=True),
    "VANILA": _Kind(NORMS, "none"),
}
"""Classes that are not L∞ gradient attacks (from their docstrings, torchattacks 3.5.1); all other classes are."""

_REFUSED = {
    "APGDT": "its loss needs four classes; use apgd",
    "AutoAttack": "its losses need four classes; use --suite standard",
    "LGV": "it trains networks of its own",
    "MultiAttack": "it takes other attacks as arguments; give --attack several times",
}

_FIELDS = {
    "steps": ("steps", "num_iter_set", "nb_iter"),
    "step_size": ("alpha",),
    "restarts": ("n_restarts",),
    "random_start": ("random_start",),
    "momentum": ("decay", "momentum"),
    "queries": ("n_queries",),
}
"""Fields of `AttackSpec` and the library's names for them."""

_GIVEN = ("model", "eps", "max_epsilon", "norm", "n_classes")
"""Arguments that come from the threat and the detector, never from ``--param``."""

_NORM_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}

_SQUARE_EXTRA, _SQUARE_RESTART = 3, 2
"""Forwards that Square makes in addition to its ``n_queries``: three per run (the clean image twice, the result once)
and two per restart (its start and end)."""


@functools.cache
def library_attack(name: str) -> Attack:
    """Return the attack ``torchattacks:CLASS``.

    ``steps``, ``step_size``, ``restarts``, ``random_start``, ``momentum`` and ``queries`` of a spec are passed under
    the library's names; ``params`` are the library's own keyword arguments. With ``eot`` the library sees the mean of
    that many forwards. ``early_stop`` does not affect the library: it only decides whether the library's image itself
    or the best image is kept.

    Raises:
        UsageError: torchattacks is not installed, or has no such class, or the class cannot attack two classes. When
            the attack runs: the class does not accept a setting, or the library fails.
    """
    chosen = name.removeprefix(PREFIX)
    classes = _classes()
    if chosen in _REFUSED:
        raise UsageError(f"{name} cannot be used here: {_REFUSED[chosen]}")
    if chosen not in classes:
        raise UsageError(f"torchattacks has no attack '{chosen}'{nearest(chosen, classes)}; see rdf list attacks")
    kind, cls = _KINDS.get(chosen, _Kind()), classes[chosen]

    def run(victim: Victim, spec: AttackSpec) -> None:
        rows = victim.rows()
        for eps in victim.eps[rows].unique():
            same = rows[victim.eps[rows] == eps]
            arguments = _arguments(cls, spec, float(eps))
            _ask(victim, _craft(cls, arguments, victim, same, spec.eot), same)

    return Attack(_summary(cls), run, kind.access, kind.norms, minimal=kind.minimal, returns_last=True, params=None)


def available() -> list[str]:
    """Return ``torchattacks:CLASS  summary; norms`` for every usable class; empty if torchattacks is not installed."""
    try:
        names = [PREFIX + name for name in _classes() if name not in _REFUSED]
    except UsageError:
        return []
    found = {name: library_attack(name) for name in names}
    return [f"{name:24} {attack.summary}; {', '.join(attack.norms)}" for name, attack in found.items()]


def _classes() -> dict[str, Callable[..., Any]]:
    """Import the library and return its attacks by name."""
    try:
        library = importlib.import_module("torchattacks")
    except ModuleNotFoundError as error:
        if error.name == "torchattacks":
            raise UsageError("torchattacks is not installed; pip install torchattacks") from error
        raise UsageError(f"torchattacks needs '{error.name}', which is not installed; pip install it") from error
    return {name: getattr(library, name) for name in library.__all__}


def _summary(cls: Callable[..., Any]) -> str:
    """First line of the class's docstring, which usually names the paper."""
    lines = [line.strip() for line in (cls.__doc__ or "").splitlines()]
    text = next((line for line in lines if line), "")
    return text.replace(" in the paper", ":").replace("'", "").rstrip(".") or "undocumented"


def _arguments(cls: Callable[..., Any], spec: AttackSpec, eps: float) -> dict[str, Any]:
    """Return the library's keyword arguments for a spec.

    Raises:
        UsageError: the class does not take one of them, or takes another type.
    """
    takes = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    open_to_all = {k: v for k, v in takes.items() if k not in _GIVEN and isinstance(v, bool | int | float | str | None)}
    listing = ", ".join(f"{key}={value}" for key, value in open_to_all.items()) or "none"
    out: dict[str, Any] = {}
    for key, value in spec.params.items():
        if key not in open_to_all:
            raise UsageError(f"{spec.name} takes no --param {key}{nearest(key, open_to_all)}; it takes {listing}")
        if not _same_kind(value, open_to_all[key]):
            raise UsageError(f"{spec.name}: --param {key} is like {open_to_all[key]!r}, not {value!r}")
        out[key] = value
    for field, names in _FIELDS.items():
        value = getattr(spec, field)
        if value == AttackSpec.model_fields[field].default:
            continue
        known = [name for name in names if name in open_to_all]
        if not known:
            raise UsageError(f"{spec.name} has no setting for {field}; it takes {listing}")
        out[known[0]] = value
    if spec.queries is not None:
        restarts = out.get("n_restarts", 1)
        out["n_queries"] = max((spec.queries - _SQUARE_EXTRA) // restarts - _SQUARE_RESTART, 1)
    given = {"eps": eps, "max_epsilon": eps, "norm": _NORM_NAMES[spec.norm], "n_classes": 2}
    return out | {key: value for key, value in given.items() if key in takes}


def _same_kind(value: object, default: object) -> bool:
    """Whether a parameter has the same kind as its default; int and float count as one kind."""
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    return default is None or isinstance(value, str) == isinstance(default, str)


class _TwoClasses(nn.Module):
    """Wrapper through which the library sees the detector: it returns logits and counts the passes.

    The detector is not registered as a submodule, so changes of modes and flags by the library do not reach it
    (`_recover_model_mode` puts every module into train mode). The library reads the device from the empty parameter.
    """

    def __init__(self, victim: Victim, rows: Tensor, eot: int) -> None:
        super().__init__()
        self.victim, self.rows, self.eot = victim, rows, eot
        self.place = nn.Parameter(torch.empty(0, device=victim.x.device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        victim, rows = self.victim, self._rows_of(x)
        answers = [check_logits(victim.detector(x), len(x)) for _ in range(self.eot)]
        passes = torch.full_like(rows, self.eot)
        victim.forwards.index_add_(0, rows, passes)
        logits = torch.stack(answers).mean(0)

        def passed_back(_: Tensor) -> None:
            victim.backwards.index_add_(0, rows, passes)

        if logits.requires_grad:
            logits.register_hook(passed_back)
        return logits

    def _rows_of(self, x: Tensor) -> Tensor:
        """Find which images the library queries: all, in their order, or else those whose clean images are nearest.

        Total counts are exact. With near-duplicates, or images rescaled by the attack, a pass may be counted for the
        wrong image.
        """
        clean = self.victim.x[self.rows]
        if len(x) == len(clean) or x.shape[1:] != clean.shape[1:]:
            return self.rows[torch.arange(len(x), device=x.device) % len(clean)]
        return self.rows[torch.cdist(x.detach().flatten(1), clean.flatten(1)).argmin(1)]


def _craft(cls: Callable[..., Any], arguments: dict[str, Any], victim: Victim, rows: Tensor, eot: int) -> Tensor:
    """Let the library attack the images ``rows``; return its images unchanged."""
    x, y = victim.x[rows], victim.y[rows].long()
    seed = rng.seed_of(*victim.key, "torchattacks", *victim.eps[rows][:1].tolist(), *victim.ids[rows].tolist())
    if "seed" in inspect.signature(cls).parameters:
        arguments = {"seed": seed, **arguments}
    name = getattr(cls, "__name__", str(cls))
    with frozen(victim.detector), _seeded(seed, x.device), torch.enable_grad():
        try:
            attack = cls(_TwoClasses(victim, rows, eot), **arguments)
            if name == "JSMA":  # without a target it aims at class (y + 1) % 10
                attack.set_mode_targeted_by_function(lambda _, labels: 1 - labels, quiet=True)
            found: Tensor = attack(x, y)
        except RdfError:
            raise
        except Exception as error:  # the library can raise anything
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise UsageError(
                f"torchattacks:{name} fails on this detector with these settings: {kind_and_line(error)}"
            ) from error
    if found.shape != x.shape:
        raise UsageError(f"torchattacks:{name} returned images {tuple(found.shape)} for {tuple(x.shape)}")
    return found.detach()


def _ask(victim: Victim, found: Tensor, rows: Tensor) -> None:
    """Query the victim with the library's images; those with non-finite pixels are counted as not finite instead."""
    whole = torch.isfinite(found).flatten(1).all(1)
    victim.not_finite[rows[~whole]] += 1
    if bool(whole.any()):
        victim.margin(found[whole], rows[whole])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that the library draws from, and restore them afterwards."""
    state = np.random.get_state()  # noqa: NPY002  (the library uses this one)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
