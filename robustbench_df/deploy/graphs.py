"""A detector as a graph that runs without this package: a `torch.export` program, or ONNX made from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from robustbench_df.deploy.runtime import INPUT, OUTPUT, OnnxDetector, onnx_runtime
from robustbench_df.errors import ModelError, first_line
from robustbench_df.models.detector import Detector, frozen

FORMATS = {"onnx": ".onnx", "exported-program": ".pt2"}
"""The formats that can be written, and their file suffixes."""

MOST_IMAGES = 65536
"""Upper bound of the dynamic batch size, which the exporter requires; memory runs out long before it."""


def traced(detector: Detector, size: tuple[int, int]) -> ExportedProgram:
    """Return the detector in eval mode as a graph over ``x``, float32 ``[1..MOST_IMAGES, 3, *size]`` in [0, 1].

    Raises:
        ModelError: torch.export cannot trace it, for example because its control flow depends on the pixels.
    """
    device = detector.mean.device
    x = torch.zeros(2, 3, *size, device=device)
    with frozen(detector), _hushed():
        try:
            return torch.export.export(detector, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1, max=MOST_IMAGES)}})
        except RuntimeError as error:
            raise ModelError(f"torch.export cannot trace this detector: {first_line(error)}") from error


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write one ONNX file, weights included.

    Raises:
        ModelError: an operation has no counterpart in ONNX, or the file would exceed the format's 2 GiB.
    """
    from google.protobuf.message import EncodeError

    with _hushed():
        try:
            made = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False)
            assert made is not None
            made.save(path, external_data=False)
        except (torch.onnx.OnnxExporterError, EncodeError, ValueError) as error:
            raise ModelError(f"this detector cannot be written as ONNX: {first_line(error)}") from error


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write an exported program, to be read with ``torch.export.load(path).module()``."""
    with _hushed():
        torch.export.save(program, path)


def save_graph(detector: Detector, size: tuple[int, int], form: str, path: Path) -> None:
    """Trace a detector and write it in one of `FORMATS`.

    Raises:
        ModelError: it cannot be traced, or not written in this format.
        UsageError: ONNX is not installed.
    """
    if form == "onnx":
        onnx_runtime()  # report a missing package before a long trace
    program = traced(detector, size)
    (save_onnx if form == "onnx" else save_program)(program, path)


def open_graph(path: Path, form: str) -> Callable[[Tensor], Tensor]:
    """Read a file that `save_graph` wrote."""
    if form == "onnx":
        return OnnxDetector(path)
    with _hushed():
        read: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return read


@contextmanager
def _hushed() -> Iterator[None]:
    """Hide the exporters' warnings, which are meant for their own developers, from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
