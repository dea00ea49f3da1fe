"""What the gradients of a convolution cost on a CPU: the library's and ours. See README.md."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

import robustbench_df as rdf
from robustbench_df.train.convolution import quicken

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(name, {"shape": shape}) for name, shape in config["shapes"].items()]


def measure(_: rdf.Cell, lab: rdf.Lab) -> list[dict[str, Any]]:
    torch.set_num_threads(lab.config["threads"])
    channels, outputs, side, kernel, stride, padding, groups = lab.config["shape"]
    theirs = nn.Conv2d(channels, outputs, kernel, stride, padding, groups=groups, bias=False)
    theirs = theirs.to(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    x = torch.randn(lab.config["batch_size"], channels, side, side).contiguous(memory_format=torch.channels_last)
    return [measured(precision, theirs, ours, x, lab.config["pairs"]) for precision in PRECISIONS]


def measured(precision: str, theirs: nn.Module, ours: nn.Module, x: Tensor, pairs: int) -> dict[str, Any]:
    truth = passes(theirs.double(), x.double(), torch.float64)[2:]
    theirs.float()
    dtype = PRECISIONS[precision]
    times: list[tuple[float, float, float]] = []
    for number in range(1 + pairs):
        forward, library, *found = passes(theirs, x, dtype)
        _, own, *found_ours = passes(ours, x, dtype)
        if number:  # the first call chooses kernels
            times.append((forward, library, own))
    forward, library, own = (1e3 * statistics.median(part) for part in zip(*times, strict=True))
    return {
        "row": precision,
        "forward ms": round(forward, 2),
        "library ms": round(library, 2),
        "ours ms": round(own, 2),
        "library / forward": statistics.median(b / a for a, b, _ in times),
        "library / ours": statistics.median(b / c for _, b, c in times),
        "error of the library": max(error(a, b) for a, b in zip(found, truth, strict=True)),
        "error of ours": max(error(a, b) for a, b in zip(found_ours, truth, strict=True)),
    }


def passes(conv: nn.Module, x: Tensor, dtype: torch.dtype) -> Any:
    """Seconds forwards, seconds backwards, and the gradients of the images and of the weights."""
    x = x.detach().to(dtype).requires_grad_()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        start = time.perf_counter()
        y = conv(x)
        middle = time.perf_counter()
    incoming = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)).to(y) - 0.5
    again = time.perf_counter()
    y.backward(incoming)
    return middle - start, time.perf_counter() - again, x.grad, next(conv.parameters()).grad


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


if __name__ == "__main__":
    rdf.experiment_main(__file__)
