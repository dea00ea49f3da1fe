"""Static int8 for ONNX Runtime: weights quantised per channel, activations with ranges measured on train images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.deploy.runtime import INPUT, onnx_runtime
from robustbench_df.robustness import tensors
from robustbench_df.run import Run

CALIBRATION, CALIBRATION_BATCH = 256, 32
"""Number of images on which activation ranges are measured, and the batch size."""

INTEGER = ("Conv", "Gemm", "MatMul")
"""Operators computed in int8: they take most of the time. The cheap operators between them stay in float32."""

FRONT_END = "residuals.kernels"
"""Suffix of the name of the weights of `robustbench_df.models.frontend`. The front-end computes differences of a few
grey levels, which a quantisation step of 1/255 of the range would round away."""


def calibration_images(run: Run, images: ImageSet, fold: int = 0) -> Tensor:
    """Return up to `CALIBRATION` train images (of one fold), float ``[N, 3, H, W]`` in [0, 1]; none is held-out."""
    table = run.split
    rows = table[(table["part"] == "train") & table["fold"].isin([-1, fold])]
    index = np.flatnonzero(np.isin(images.ids.astype(str), rows["image_id"].astype(str)))
    return tensors(images, thin(index, CALIBRATION, images.labels), "cpu")[0]


def quantise(source: Path, target: Path, x: Tensor) -> dict[str, Any]:
    """Make an int8 file from a float32 one (QDQ format); return how it was made.

    Weights are symmetric int8 per output channel, activations uint8. ONNX Runtime's documentation recommends this for
    x86 with VNNI instructions; on older processors it may saturate. An activation's range is the mean, over the batches
    of ``x``, of the batch's extremes. With the extremes over all images EfficientNet-B0 lost 3 points of accuracy; with
    the mean, and with the operators of `kept_in_float32` left out, less than one (`experiments/bench_inference`).

    Args:
        source: an ONNX file that `robustbench_df.deploy.graphs` wrote.
        target: the int8 file to write.
        x: train images ``[N, 3, H, W]`` in [0, 1].
    """
    onnx_runtime()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(x.split(CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {INPUT: part.numpy()}

    with tempfile.TemporaryDirectory() as folder, _errors_only():
        merged = Path(folder) / "merged.onnx"
        quant_pre_process(source, merged, skip_symbolic_shape=True)  # merges batch normalisation into convolutions
        kept = kept_in_float32(onnx.load(merged).graph.node)
        quantization.quantize_static(
            merged,
            target,
            Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(INTEGER),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=kept,
            extra_options={"CalibMovingAverage": True},  # in this version, this is the plain mean over the batches
        )
    return {
        "operators": list(INTEGER),
        "weights": "int8, per channel",
        "activations": f"uint8, mean of the extremes of batches of {CALIBRATION_BATCH}",
        "float32": f"{len(kept)} operators: front-end, first and last layer, depthwise convolutions",
        "calibrated_on": f"{len(x)} train images",
    }


def kept_in_float32(nodes: Sequence[Any]) -> list[str]:
    """Name the operators of `INTEGER` for which rounding costs more than int8 saves.

    These are the residual front-end, the first and the last layer of every member, and depthwise convolutions, whose
    few values per channel have widely different ranges (reasons: Krishnamoorthi 2018, arXiv:1806.08342, and Nagel et
    al. 2021, arXiv:2106.08295).

    Args:
        nodes: the nodes of an ONNX graph in topological order, as the format requires.
    """
    integer = [node.op_type in INTEGER and not _front_end(node) for node in nodes]
    before = _depths(nodes, integer, lambda node: node.input, lambda node: node.output)
    after = _depths(nodes[::-1], integer[::-1], lambda node: node.output, lambda node: node.input)[::-1]
    ends = [own and 0 in pair for own, *pair in zip(integer, before, after, strict=True)]
    return [node.name for node, end in zip(nodes, ends, strict=True) if end or _front_end(node) or _grouped(node)]


def _depths(
    nodes: Sequence[Any], integer: Sequence[bool], taken: Callable[[Any], Any], given: Callable[[Any], Any]
) -> list[int]:
    """Return for each node the largest number of integer operators on a path between one end of the graph and it."""
    reached: dict[str, int] = {}
    depths = []
    for node, own in zip(nodes, integer, strict=True):
        depth = max((reached.get(name, 0) for name in taken(node)), default=0)
        depths.append(depth)
        reached.update({name: max(depth + own, reached.get(name, 0)) for name in given(node)})
    return depths


def _front_end(node: Any) -> bool:
    return any(name.endswith(FRONT_END) for name in node.input)


def _grouped(node: Any) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Hide the quantiser's advice, which it gives through the root logger, from our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
