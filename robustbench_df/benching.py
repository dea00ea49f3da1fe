"""`rdf bench`: inference speed of a run's detectors on this machine, in every available way of running them."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_df import rng
from robustbench_df.deploy.graphs import save_graph
from robustbench_df.deploy.int8 import calibration_images, quantise
from robustbench_df.deploy.runtime import OnnxDetector, runtime_version
from robustbench_df.deploy.timing import ROUNDS, Timed, time_in_turn, working_memory
from robustbench_df.devices import choose_device, device_name, synchronize, working
from robustbench_df.errors import ModelError, RdfError, UsageError, first_line
from robustbench_df.exporting import ExportPlan, detector_of, ready_file
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from robustbench_df.rundir import provenance
from robustbench_df.settings import Positive, Settings

MEMORY_BATCH = 32
"""Batch size at which the working memory is measured; the same for all ways, since memory grows with the batch."""

FEWEST_CALLS = 2 + ROUNDS[0]
"""Least number of calls that `time_in_turn` makes in each way."""

FILE_SECONDS = 8
"""Seconds to make an ONNX or int8 file, per network, on one core; 4 to 10 seconds were observed."""

Answer = Callable[[Tensor], object]


class BenchPlan(Settings):
    """Settings of `rdf bench`."""

    models: tuple[str, ...] = ()
    """Names of detectors, also ``ensemble``; empty: all, the ensemble first."""
    phase: Literal["base", "final"] | None = None
    batches: tuple[Annotated[int, Field(ge=1)], ...] = (1, 8, 32, 128, 256)
    compiled: bool = False
    """Also time ``torch.compile``, which takes a minute or more per detector."""
    seconds: Positive = 100.0
    """Time budget for everything; rows that do not fit are marked as not run."""
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class Way:
    """One way of running a detector: the function to call, and the bytes of its weights."""

    answer: Answer
    size: int


def bench_run(run: Run, plan: BenchPlan, reporter: Reporter | None = None) -> dict[str, Any]:
    """Time a run's detectors as deployed; returns hardware, versions and one row per detector, way and batch.

    All ways of one detector and batch are timed in turn (`robustbench_df.deploy.timing`). ``times_faster`` is the time
    of ``fp32`` (eager torch, NCHW: the usual baseline) divided by the way's time, as the median over the rounds. The
    images are noise and are on the device before timing starts; ONNX Runtime gets them in CPU memory.

    Raises:
        UsageError: an unknown model, or a device that is not present.
    """
    reporter = reporter or Reporter()
    device = torch.device(choose_device(plan.device))
    models = plan.models or ("ensemble", *run.models)
    for name in models:
        run.decision(name, plan.phase)  # fail on a misspelt name now, not after the others were timed
    threads = plan.threads or torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + plan.seconds
    reporter.start(f"timing on {device}, {threads} threads", len(models) * len(plan.batches), unit="batches")
    with working(threads):
        for k, name in enumerate(models):
            share = (deadline - time.monotonic()) / (len(models) - k)
            rows += _bench_model(run, name, plan, device, share, reporter)
    reporter.finish()
    record = provenance(run.config.seed, run.fingerprint, threads, device_name(str(device)))
    return {
        "run": run.name,
        "phase": plan.phase or run.shipped["phase"],
        "image_size": list(run.image_size),
        "versions": {**record["versions"], "onnxruntime": runtime_version()},
        "hardware": record["hardware"],
        "memory_batch": MEMORY_BATCH,
        "rows": rows,
    }


def _bench_model(
    run: Run, name: str, plan: BenchPlan, device: torch.device, seconds: float, reporter: Reporter
) -> list[dict[str, Any]]:
    """Time one detector in every way and batch within about ``seconds``."""
    deadline = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        ways, missing = _ways(run, name, plan, device, Path(folder), seconds / 2)
        x = _noise(max(*plan.batches, MEMORY_BATCH), run.image_size, device)
        memory = {way: working_memory(_call(ways[way], x[:MEMORY_BATCH], device), device) for way in ways}
        per_image = 0.0  # seconds of one round per image, measured with the previous batch size
        batches = sorted(set(plan.batches))
        for k, batch in enumerate(batches):
            calls = {way: _call(ways[way], x[:batch], device) for way in ways}
            left, wanted = deadline - time.monotonic(), FEWEST_CALLS * per_image * batch
            hopeful = [b for b in batches[k + 1 :] if FEWEST_CALLS * per_image * b < left]
            left *= _weight(batch) / (_weight(batch) + sum(_weight(b) for b in hopeful))
            found = wanted if wanted > left else time_in_turn(calls, left)
            if isinstance(found, dict):
                per_image = sum(timed.median for timed in found.values()) / batch
            for way in (*ways, *missing):
                row: dict[str, Any] = {"model": name, "way": way, "batch": batch}
                if way in missing:
                    row["not_run"] = missing[way]
                elif isinstance(found, dict):
                    row |= _numbers(found[way], found["fp32"], batch)
                    row |= {"weights_bytes": ways[way].size, "memory_bytes": memory[way]}
                else:
                    need = f"would take {found:.0f} s, {left:.0f} s were left" if left > 0 else "no time was left"
                    row["not_run"] = f"{need}; raise --seconds"
                rows.append(row)
            reporter.advance(1)
    return rows


def _weight(batch: int) -> float:
    """Return the relative share of time for a batch size: larger batches take longer, but not in proportion."""
    return 2 + batch / 64


def _numbers(timed: Timed, reference: Timed, batch: int) -> dict[str, Any]:
    p95 = timed.p95
    return {
        "median_ms": timed.median * 1e3,
        "p95_ms": None if p95 is None else p95 * 1e3,
        "images_per_second": batch / timed.median,
        "times_faster": timed.times_faster_than(reference),
        "calls": timed.calls,
        "rounds": len(timed.rounds),
    }


def _noise(n: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return rng.uniform(torch.arange(n), (3, *size), "bench").to(device)


def _call(way: Way, x: Tensor, device: torch.device) -> Callable[[], object]:
    """Return a function that runs the detector on ``x`` and waits for the result."""

    def call() -> None:
        with torch.inference_mode():
            way.answer(x)
        synchronize(device)

    return call


def _ways(
    run: Run, name: str, plan: BenchPlan, device: torch.device, folder: Path, seconds: float
) -> tuple[dict[str, Way], dict[str, str]]:
    """Prepare every way of running a detector; returns the ways, and the reason for each one that is not available.

    A file that `rdf export` wrote is reused; otherwise a file is made if that should take no more than ``seconds``.
    """
    detector = detector_of(run, ExportPlan(model=name, phase=plan.phase)).to(device)
    networks = sum(isinstance(m, Detector) and not isinstance(m, Ensemble) for m in detector.modules())
    size = sum(tensor.nbytes for tensor in (*detector.parameters(), *detector.buffers()))
    last = copy.deepcopy(detector).to(memory_format=torch.channels_last)

    def in_last(x: Tensor) -> object:
        return last(x.contiguous(memory_format=torch.channels_last))

    def in_bf16(answer: Answer) -> Answer:
        def autocast(x: Tensor) -> object:
            with torch.autocast(device.type, torch.bfloat16):
                return answer(x)

        return autocast

    ways = {
        "fp32": Way(detector, size),
        "channels-last": Way(in_last, size),
        "bf16": Way(in_bf16(detector), size),
        "bf16 channels-last": Way(in_bf16(in_last), size),
    }
    made: dict[str, Callable[[], Way]] = {
        "compiled": lambda: _compiled(detector, size, plan, run.image_size, device),
        "onnx fp32": lambda: _onnx(run, name, plan, device, folder, networks * FILE_SECONDS <= seconds),
        "onnx int8": lambda: _int8(run, name, plan, device, folder, networks * FILE_SECONDS <= seconds),
    }
    missing: dict[str, str] = {}
    for way, make in made.items():
        try:
            ways[way] = make()
        except RdfError as error:
            missing[way] = str(error)
    return ways, missing


def _compiled(detector: Detector, size: int, plan: BenchPlan, image: tuple[int, int], device: torch.device) -> Way:
    if not plan.compiled:
        raise UsageError("takes minutes; ask for it with --compile")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UsageError("torch.compile needs a C++ compiler (g++), and there is none")
    torch.compiler.reset()  # after a few detectors its cache is full, and torch silently runs eager code
    compiled = torch.compile(detector, dynamic=True)
    try:
        for batch in (1, 2):  # a batch of one is compiled separately
            _call(Way(compiled, size), _noise(batch, image, device), device)()
    except RuntimeError as error:
        raise ModelError(f"torch.compile failed: {first_line(error)}") from error
    return Way(compiled, size)


def _onnx(run: Run, name: str, plan: BenchPlan, device: torch.device, folder: Path, make: bool) -> Way:
    path = ready_file(run, ExportPlan(model=name, phase=plan.phase)) or folder / "float32.onnx"
    if not path.exists():
        _refuse_unless(make, f"rdf export --model {name}")
        save_graph(detector_of(run, ExportPlan(model=name, phase=plan.phase)), run.image_size, "onnx", path)
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    return Way(OnnxDetector(path, provider), path.stat().st_size)


def _refuse_unless(make: bool, command: str) -> None:
    if not make:
        raise UsageError(f"there is no file yet, and making it would take too long here: {command}, or raise --seconds")


def _int8(run: Run, name: str, plan: BenchPlan, device: torch.device, folder: Path, make: bool) -> Way:
    if device.type != "cpu":
        raise UsageError("static int8 is made for the CPU; use --device cpu")
    wanted = ExportPlan(model=name, phase=plan.phase)
    path = ready_file(run, wanted.model_copy(update={"int8": True})) or folder / "int8.onnx"
    if not path.exists():
        _refuse_unless(make, f"rdf export --model {name} --int8")
        source = ready_file(run, wanted) or folder / "float32.onnx"
        if not source.exists():
            raise ModelError("int8 is made of the onnx fp32 file, which could not be written")
        quantise(source, path, calibration_images(run, run.images()))
    return Way(OnnxDetector(path), path.stat().st_size)
