"""A probe of a few steps that chooses precision, memory format and threads, and remembers the answer.

No setting wins everywhere: on one two-core CPU bf16 made ResNet-SE 3 times faster and EfficientNet-B0 2 times slower.
The answer is kept per machine, model and shape, so that a repeated or resumed run computes in the same way.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from robustbench_df.config import SpeedConfig
from robustbench_df.errors import UsageError
from robustbench_df.memory import give_back_freed_memory, halving, keep_freed_memory
from robustbench_df.models.detector import Detector
from robustbench_df.rundir import write_json
from robustbench_df.train import convolution, excitation

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PROBE_BATCH = 64
PROBE_STEPS = 2

_CPU_PIXELS = 128 * 32 * 32
_CPU_LEAST = 4
"""On a CPU a probe takes no more pixels at a time, but so many images: it must not take longer than it can save, and a
few large images keep the cores as busy as many small ones."""

WARM_UP = 3
"""Steps until the memory of a batch has been fetched from the system, which can take longer than the steps themselves:
timed, they would tell against whatever is measured first."""


@dataclass(frozen=True)
class Setting:
    """How one detector is trained: device, precision, memory format, threads; and what the probe measured."""

    device: str = "cpu"
    precision: str = "fp32"
    memory_format: str = "channels_last"
    threads: int = 1
    own_gradients: bool = True
    """On a CPU, whether gradients that the library is slow at are `train.convolution`'s and `train.excitation`'s."""
    measured: dict[str, float] | None = None
    """Images per second of each candidate (forward + backward + step), where a probe was made."""

    @property
    def format(self) -> torch.memory_format:
        """The torch memory format."""
        return FORMATS[self.memory_format]

    def autocast(self) -> torch.autocast:
        """A context in which forwards run in this precision."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, DTYPES[self.precision], enabled=self.precision != "fp32")


def choose_device(name: str) -> str:
    """Resolve ``auto`` to cuda, mps or cpu.

    Raises:
        UsageError: the named device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'; choose cpu, cuda, cuda:N or mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise UsageError(f"device '{name}' asked for, but torch sees none such; use --device cpu")
    return name


def device_name(name: str) -> str:
    """Describe a device for the record, for example ``cuda (NVIDIA H200)``."""
    device = choose_device(name)
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def setting_for(
    build: Callable[[], Detector],
    size: tuple[int, int],
    batch: int,
    config: SpeedConfig,
    identity: dict[str, Any],
    cache: Path | None = None,
) -> Setting:
    """Return how to train this detector fastest: as configured, as remembered, or as probed now.

    Args:
        build: makes a fresh detector.
        size: image height and width in pixels.
        batch: images per forward in training.
        config: what is fixed already.
        identity: what the answer depends on besides the machine (the model's config), as JSON.
        cache: folder of remembered answers; None remembers nothing.
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
            return replace(remembered, device=device)  # of the same kind, perhaps another one
    chosen = halving(batch, lambda some: _probe(build, size, some, candidates))  # as training would go on
    give_back_freed_memory()
    if path is not None:
        write_json(path, {"key": key, "setting": asdict(chosen)})
    return chosen


def _probe_batch(size: tuple[int, int], batch: int, device: str) -> int:
    """Images at a time in a probe: as in training, as far as that is worth the time."""
    most = max(_CPU_PIXELS // (size[0] * size[1]), _CPU_LEAST) if device == "cpu" else PROBE_BATCH
    return min(batch, PROBE_BATCH, most)


def _candidates(fixed: Setting) -> list[Setting]:
    kind = torch.device(fixed.device).type
    precisions = ["fp32"] if kind == "mps" else ["bf16", "fp32"]
    # Where both are native they are equally fast, and fp16 lets small gradients vanish; emulated bf16 is slow.
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        precisions = ["fp16", "fp32"]
    chosen = precisions if fixed.precision == "auto" else [fixed.precision]
    formats = ["channels_last", "contiguous"] if fixed.memory_format == "auto" else [fixed.memory_format]
    return [replace(fixed, precision=p, memory_format=f) for f in formats for p in chosen]


_HOPELESS = 2
"""A candidate is given up once it is so many times slower than the best: it will not catch up when it is warm."""

_CLOSE = 1.3
"""Candidates within this factor of the best are timed again, step by step in turn: one after the other, what else the
machine does can differ by more than they do."""

_FINAL_STEPS = 5
"""Steps of each that are timed in turn, after `WARM_UP` that are not."""


def _probe(build: Callable[[], Detector], size: tuple[int, int], batch: int, candidates: list[Setting]) -> Setting:
    """Time a few whole steps of each candidate on random images, the best ones in turn, and return the fastest."""
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
    """Return the fastest of some candidates, and note in ``rates`` what they reach in steps taken in turn."""
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
    """Images per second of bare forward + backward + AdamW step on one resident random batch.

    Args:
        detector: trained for a few steps; give a fresh one.
        size: image height and width in pixels.
        batch: images per step.
        setting: device, precision, memory format, threads.
        steps: timed steps, after `WARM_UP` that are not.
        give_up_below: stop once two steps or more were all slower than this rate; the last is then what counts.
    """
    step, seconds = _stepper(detector, size, batch, setting), list[float]()
    for number in range(WARM_UP + steps):
        seconds.append(step())
        if number and batch / min(seconds) < give_up_below:
            break
    return batch / statistics.median(seconds[WARM_UP:] or seconds[-1:])


def _stepper(detector: Detector, size: tuple[int, int], batch: int, setting: Setting) -> Callable[[], float]:
    """Return what takes one training step of ``detector`` on a resident random batch, and returns its seconds."""
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


@contextmanager
def working(threads: int) -> Iterator[None]:
    """Compute with so many threads, with freed memory kept; the caller's thread count is restored."""
    before = torch.get_num_threads()
    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait for queued work, so that a clock reading means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def prepare(module: nn.Module, setting: Setting) -> None:
    """Move a module to the setting's device and memory format, and have its gradients computed as the setting says."""
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
        return None  # absent or of another version: measured again
