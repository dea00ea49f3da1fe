"""Choice of the precision of a grid's forward passes: bf16 where it is faster on this machine and agrees with fp32.

As in `robustbench_df.train.speed`, no setting is best everywhere: on one two-core CPU, bf16 made ResNet-SE three times
as fast and hardly sped up EfficientNet-B0. Clean images are always scored in fp32, as in ``results.json``; bf16 is
compared with these scores.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_df.devices import synchronize
from robustbench_df.metrics.scores import Floats, probability
from robustbench_df.precision import exact_fp32
from robustbench_df.train.speed import DTYPES, PROBE_BATCH, PROBE_STEPS

Pair = tuple[str, str]
"""Name of a detector, or ``ensemble``, and its phase."""

MOST_CHANGED, MOST_MOVED = 0.005, 0.01
"""Largest share of clean verdicts that bf16 may change, and largest mean change of P(fake)."""

GAIN = 1.1
"""bf16 must be at least this many times as fast as fp32; otherwise fp32 is used."""

FEW = 8
"""Images of a first trial, so that a processor that only emulates bf16 does not spend minutes on a full probe."""

CACHED = 64
"""Most images per forward pass on a CPU, whose caches overflow with 256: up to 1.8 times as fast in bf16 at 32 px."""

WORTH = 4000
"""Least number of images per detector for which a probe, some hundred forward passes, saves more time than it costs."""


class Network(nn.Module):
    """A network with a settable precision (initially fp32) that returns float32 logits.

    It caches its output for the last batch, because the ensemble needs the same output again.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.precision = "fp32"
        self._last: tuple[Tensor, str, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]``; a repeated call with the same tensor object returns the cached logits."""
        if self._last is None or self._last[0] is not x or self._last[1] != self.precision:
            self._last = x, self.precision, self.answer(x, self.precision)
        return self._last[2]

    def answer(self, x: Tensor, precision: str) -> Tensor:
        """Compute logits ``[N, 2]`` without the cache."""
        parts = math.ceil(len(x) / CACHED) if x.device.type == "cpu" else 1
        with torch.autocast(x.device.type, DTYPES[precision], enabled=precision != "fp32"), exact_fp32():
            return torch.cat([self.net(part) for part in x.tensor_split(parts)]).float()


@dataclass(frozen=True)
class Choice:
    """The precision of a detector's networks, and the measurements behind the choice.

    ``precision`` maps each network to its precision. ``rates`` are images per second of each network in each precision.
    ``changed`` and ``moved`` are the effect of bf16 on ``n`` clean images (`apart`). If nothing was measured, ``rates``
    is empty and the others are None or 0.
    """

    precision: Mapping[str, str]
    rates: Mapping[str, Mapping[str, float]]
    changed: float | None = None
    moved: float | None = None
    n: int = 0
    machine: str = ""

    @property
    def text(self) -> str:
        """``fp32`` or ``bf16``, or both for an ensemble whose members differ."""
        return "+".join(sorted(set(self.precision.values())))

    @property
    def said(self) -> str:
        """The choice and its reasons, as a message for the user."""
        times = ", ".join(f"{own['bf16'] / own['fp32']:.1f} times as fast ({name})" for name, own in self.rates.items())
        return (
            f"{self.text}: bf16 is {times}, changes {self.changed:.1%} of {self.n} clean verdicts and moves P(fake) by "
            f"{self.moved:.4f} on average"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


def given(precision: str, names: Iterable[str]) -> Choice:
    """Return a choice of ``precision`` for all networks, as the caller set it."""
    return Choice(dict.fromkeys(names, precision), {})


def remembered(notes: Mapping[str, Any], where: str) -> Choice | None:
    """Return the choice recorded in an earlier cell of the same plan, so that a resumed grid uses the same precision.

    None if the cell records no choice, or was computed on another machine than ``where`` (`machine`).
    """
    found = notes.get("choice")
    return Choice(**found) if found and found.get("machine") == where else None


def machine(device: str) -> str:
    """Describe the machine: everything that a measured rate depends on besides the network."""
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return f"{platform.node()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {kind}, {torch.__version__}"


@torch.no_grad()
def timed(net: Network, x: Tensor) -> dict[str, float]:
    """Return images per second in fp32 and in bf16, measured on some of the images ``x``."""
    rates: dict[str, float] = {}
    for some in (x[:FEW], x[:PROBE_BATCH]):
        rates = {precision: round(_rate(net, some, precision), 1) for precision in ("fp32", "bf16")}
        if rates["bf16"] < rates["fp32"] / 2:
            break
    return rates


def _rate(net: Network, x: Tensor, precision: str) -> float:
    """Return images per second of the fastest of a few forward passes, after one that allocates and chooses kernels."""
    seconds = []
    for _ in range(1 + PROBE_STEPS):
        synchronize(x.device)
        started = time.perf_counter()
        net.answer(x, precision)
        synchronize(x.device)
        seconds.append(time.perf_counter() - started)
    return len(x) / min(seconds[1:])


def faster(rates: Mapping[str, float]) -> str:
    """Choose the precision by images per second alone."""
    return "bf16" if rates["bf16"] >= GAIN * rates["fp32"] else "fp32"


def apart(exact: Floats, fast: Floats, offset: float) -> tuple[float, float]:
    """Return the share of verdicts that differ, and the mean absolute difference of P(fake).

    Args:
        exact, fast: deployed margins ``[N]``; at least 0 means fake.
        offset: log-odds of the deployed threshold, which turns a margin back into P(fake).
    """
    changed = (exact >= 0) != (fast >= 0)
    return float(changed.mean()), float(np.abs(probability(exact + offset) - probability(fast + offset)).mean())


def settle(
    pairs: Sequence[Pair],
    members: Mapping[Pair, Sequence[Pair]],
    rates: Mapping[Pair, Mapping[str, float]],
    differences: Mapping[Pair, tuple[float, float]],
    n: int,
    where: str,
) -> dict[Pair, Choice]:
    """Decide the precision of every network: it uses bf16 only if that changes none of its detectors too much.

    Args:
        pairs: the detectors to be evaluated.
        members: the networks of each detector: its own, or those of an ensemble's members.
        rates: images per second of each network; those that are `faster` in bf16 are candidates for it.
        differences: result of `apart` for each detector with these networks in bf16.
        n: number of images compared.
        where: result of `machine`.
    """
    precision = {net: faster(own) for net, own in rates.items()}
    for pair in pairs:
        changed, moved = differences[pair]
        if changed > MOST_CHANGED or moved > MOST_MOVED:
            precision |= dict.fromkeys(members[pair], "fp32")
    return {
        pair: Choice(
            {name: precision[name, phase] for name, phase in members[pair]},
            {name: rates[name, phase] for name, phase in members[pair]},
            *differences[pair],
            n,
            where,
        )
        for pair in pairs
    }
