"""A probe of a few training steps that chooses precision, memory format and threads, and caches the result.

No setting is best everywhere: on one two-core CPU, bf16 made ResNet-SE 3 times faster and EfficientNet-B0 2 times
slower. The result is cached per machine, model and shape, so that a repeated or resumed run computes in the same way.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from robustbench_df.config import SpeedConfig
from robustbench_df.devices import choose_device, synchronize, working
from robustbench_df.memory import give_back_freed_memory, halving
from robustbench_df.models.detector import Detector
from robustbench_df.rundir import write_json
from robustbench_df.train import convolution, excitation

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PROBE_BATCH = 64
PROBE_STEPS = 2

_CPU_PIXELS = 128 * 32 * 32
_CPU_LEAST = 4
"""On a CPU a probe batch has at most `_CPU_PIXELS` pixels, but may always have `_CPU_LEAST` images. The probe must not
take longer than it can save, and a few large images keep the cores as busy as many small ones."""

WARM_UP = 3
"""Untimed steps, in which the process gets a batch's memory from the system. That can take longer than the steps
themselves; timing them would count against whichever candidate is measured first."""


@dataclass(frozen=True)
class Setting:
    """How one detector is trained (device, precision, memory format, threads), and what the probe measured."""

    device: str = "cpu"
    precision: str = "fp32"
    memory_format: str = "channels_last"
    threads: int = 1
    own_gradients: bool = True
    """Whether `train.convolution` and `train.excitation` compute the gradients that the library is slow at on a CPU."""
    measured: dict[str, float] | None = None
    """Images per second of each candidate (forward + backward + step); None if there was no probe."""

    @property
    def format(self) -> torch.memory_format:
        """The torch memory format."""
        return FORMATS[self.memory_format]

    def autocast(self) -> torch.autocast:
        """Return a context in which forward passes run in this precision."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, DTYPES[self.precision], enabled=self.precision != "fp32")


def setting_for(
    build: Callable[[], Detector],
    size: tuple[int, int],
    batch: int,
    config: SpeedConfig,
    identity: dict[str, Any],
    cache: Path | None = None,
) -> Setting:
    """Return the fastest way to train this detector: as configured, as cached, or as probed now.

    Args:
        build: makes a fresh detector.
        size: image height and width in pixels.
        batch: images per forward pass in training.
        config: settings that are already fixed.
        identity: what the result depends on besides the machine (the model's config), as JSON.
        cache: folder of cached results; None disables the cache.
    """
    device = choose_device(config.device)
    threads = config.threads or torch.get_num_threads()
    fixed = Setting(device, config.precision, config.memory_format, threads, config.own_gradients)
    batch = _probe_batch(size, batch, device)
    candidates = _candidates(fixed)
    if len(candidates) == 1:
        return candidates[0]
    key = {
        "model": identity,
        "size": size,
        "batch": batch,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "host": [platform.node(), os.cpu_count()],
        "threads": threads,
        "torch": torch.__version__,
        "warm_up": WARM_UP,
        "choices": [config.precision, config.memory_format, config.own_gradients],
    }
    path = None
    if cache is not None:
        path = cache / f"{_digest(key)}.json"
        remembered = _remembered(path)
        if remembered is not None:
            return replace(remembered, device=device)  # same kind of device, perhaps another index
    chosen = halving(batch, lambda some: _probe(build, size, some, candidates))  # halves the batch as training does
    give_back_freed_memory()
    if path is not None:
        write_json(path, {"key": key, "setting": asdict(chosen)})
    return chosen


def _probe_batch(size: tuple[int, int], batch: int, device: str) -> int:
    """Return the batch size of a probe: that of training, up to a limit that keeps the probe short."""
    most = max(_CPU_PIXELS // (size[0] * size[1]), _CPU_LEAST) if device == "cpu" else PROBE_BATCH
    return min(batch, PROBE_BATCH, most)


def _candidates(fixed: Setting) -> list[Setting]:
    kind = torch.device(fixed.device).type
    precisions = ["fp32"] if kind == "mps" else ["bf16", "fp32"]
    # Native bf16 is as fast as native fp16, in which small gradients underflow; emulated bf16 is slow.
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        precisions = ["fp16", "fp32"]
    chosen = precisions if fixed.precision == "auto" else [fixed.precision]
    formats = ["channels_last", "contiguous"] if fixed.memory_format == "auto" else [fixed.memory_format]
    return [replace(fixed, precision=p, memory_format=f) for f in formats for p in chosen]


_HOPELESS = 2
"""A candidate is dropped once it is this many times slower than the best: warming up will not make up for that."""

_CLOSE = 1.3
"""Candidates within this factor of the best are timed again, with their steps interleaved. If they were timed one after
the other, changes in the machine's other load could exceed the differences between them."""

_FINAL_STEPS = 5
"""Timed steps of each candidate in the interleaved timing, after `WARM_UP` untimed ones."""


def _probe(build: Callable[[], Detector], size: tuple[int, int], batch: int, candidates: list[Setting]) -> Setting:
    """Time a few full steps of each candidate on random images, interleave those of the best, return the fastest."""
    rates: dict[Setting, float] = {}
    device = torch.device(candidates[0].device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for candidate in candidates:
            slowest = max(rates.values(), default=0.0) / _HOPELESS
            rates[candidate] = training_rate(build(), size, batch, candidate, give_up_below=slowest)
        best = max(rates.values())
        winner = _fastest(build, size, batch, [c for c in candidates if rates[c] * _CLOSE > best], rates)
        if winner.device == "cpu" and winner.threads > 1:  # hyper-threads can be slower than cores
            fewer = replace(winner, threads=winner.threads // 2)
            winner = _fastest(build, size, batch, [winner, fewer], rates)
    names = {c: f"{c.precision}/{c.memory_format}" for c in candidates}
    measured = {names.get(c, f"{c.threads} threads"): round(rate, 1) for c, rate in rates.items()}
    return replace(winner, measured=measured)


def _fastest(
    build: Callable[[], Detector],
    size: tuple[int, int],
    batch: int,
    candidates: list[Setting],
    rates: dict[Setting, float],
) -> Setting:
    """Return the fastest candidate, and write the rates measured in interleaved steps to ``rates``."""
    if len(candidates) > 1:
        steppers = {candidate: _stepper(build(), size, batch, candidate) for candidate in candidates}
        rounds = [{c: step() for c, step in steppers.items()} for _ in range(WARM_UP + _FINAL_STEPS)][WARM_UP:]
        rates |= {c: batch / statistics.median(seconds[c] for seconds in rounds) for c in candidates}
    return max(candidates, key=lambda c: rates[c])


def training_rate(
    detector: Detector,
    size: tuple[int, int],
    batch: int,
    setting: Setting,
    steps: int = PROBE_STEPS,
    *,
    give_up_below: float = 0.0,
) -> float:
    """Return images per second of forward + backward + AdamW step alone, on one random batch kept on the device.

    Args:
        detector: is changed by a few training steps; pass a fresh one.
        size: image height and width in pixels.
        batch: images per step.
        setting: device, precision, memory format, threads.
        steps: timed steps, after `WARM_UP` untimed ones.
        give_up_below: stop early when at least two steps have run and all were slower than this rate. If that happens
            during the warm-up, the rate of the last step is returned.
    """
    step, seconds = _stepper(detector, size, batch, setting), list[float]()
    for number in range(WARM_UP + steps):
        seconds.append(step())
        if number and batch / min(seconds) < give_up_below:
            break
    return batch / statistics.median(seconds[WARM_UP:] or seconds[-1:])


def _stepper(detector: Detector, size: tuple[int, int], batch: int, setting: Setting) -> Callable[[], float]:
    """Return a function that runs one training step on a random batch kept on the device and returns its seconds."""
    device = torch.device(setting.device)
    prepare(detector.train(), setting)
    optimizer = torch.optim.AdamW(detector.parameters(), 1e-4, fused=device.type != "mps")
    x = torch.rand(batch, 3, *size, device=device).contiguous(memory_format=setting.format)
    y = torch.arange(batch, device=device) % 2

    def step() -> float:
        with working(setting.threads):
            synchronize(device)
            start = time.perf_counter()
            with setting.autocast():
                loss = F.cross_entropy(detector(x).float(), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            synchronize(device)
            return time.perf_counter() - start

    return step


def prepare(module: nn.Module, setting: Setting) -> None:
    """Move a module to the setting's device and memory format; on a CPU, install the faster gradients if set."""
    module.to(torch.device(setting.device)).to(memory_format=setting.format)
    if setting.own_gradients and torch.device(setting.device).type == "cpu":
        for part in (convolution, excitation):
            part.quicken(module)


def _digest(key: dict[str, Any]) -> str:
    import hashlib

    return hashlib.blake2b(json.dumps(key, sort_keys=True, default=str).encode(), digest_size=10).hexdigest()


def _remembered(path: Path) -> Setting | None:
    try:
        return Setting(**json.loads(path.read_text())["setting"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or from another version: measure again
