"""Where to compute: the device by its name, when it has finished, and the threads of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustbench_df.errors import UsageError
from robustbench_df.memory import keep_freed_memory


def choose_device(name: str) -> str:
    """Resolve ``auto`` to cuda, mps or cpu.

    Raises:
        UsageError: the name is unknown, or the device is not present.
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


@contextmanager
def working(threads: int) -> Iterator[None]:
    """Compute with ``threads`` threads and keep freed memory; restore the caller's thread count afterwards."""
    before = torch.get_num_threads()
    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work, so that a clock reading is meaningful."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
