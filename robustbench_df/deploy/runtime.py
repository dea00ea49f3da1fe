"""ONNX Runtime, and a `Detector` that runs an ONNX file with it."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError, UsageError, first_line
from robustbench_df.models.detector import Detector

INPUT, OUTPUT = "images", "logits"
"""Names of the graph's input, float32 ``[batch, 3, H, W]`` in [0, 1], and output, float32 ``[batch, 2]``."""

_ERRORS_ONLY = 3


def onnx_runtime() -> Any:
    """Import ONNX Runtime with its telemetry off; its Linux wheels read that setting from the environment at import.

    Raises:
        UsageError: onnxruntime, onnx or onnxscript is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnx  # noqa: F401  (quantisation and export need it as well, so report its absence now)
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{error.name or 'onnxruntime'} is not installed; install the extra: pip install 'robustbench_df[export]'"
        ) from error
    return onnxruntime


def runtime_version() -> str | None:
    """Version of ONNX Runtime; None if it is not installed."""
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return None


class OnnxDetector(Detector):
    """An ONNX file as a detector: logits ``[N, 2]`` for ``[N, 3, H, W]`` in [0, 1], without a gradient.

    Args:
        path: the file, with input `INPUT` and output `OUTPUT`.
        provider: ONNX Runtime's execution provider; inputs and outputs are always passed through CPU memory.

    The number of threads is that of torch when the file is opened.

    Raises:
        ModelError: ONNX Runtime cannot read the file.
        UsageError: ONNX Runtime is not installed, or has no such provider.
    """

    def __init__(self, path: Path, provider: str = "CPUExecutionProvider") -> None:
        super().__init__(nn.Identity())
        runtime = onnx_runtime()
        if provider not in runtime.get_available_providers():
            raise UsageError(f"this onnxruntime has no {provider}; install a build that has it")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        # Threads that keep spinning after a call would take CPU time from whatever computes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # its exceptions share no base class of their own
            raise ModelError(f"ONNX Runtime cannot open '{path}': {first_line(error)}") from error

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]``, on the device of ``x``."""
        (logits,) = self.session.run([OUTPUT], {INPUT: np.ascontiguousarray(x.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(x.device)
