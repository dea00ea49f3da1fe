"""Seconds and memory: the fast part of the audit on a large archive, and the growth of the search for near hashes."""

from __future__ import annotations

import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import robustbench_df as rdf
from robustbench_df.audit import neighbours
from robustbench_df.audit.alignment import FLIPS
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.duplicates import duplicate_findings
from robustbench_df.audit.hashing import Hashes, flip_mask, thumbnails, view_hashes
from robustbench_df.audit.neighbours import RADIUS, Candidates, Index, bands, candidates, confirm
from robustbench_df.audit.shortcuts import shortcuts

PIPELINE = "a training pipeline (shift, flip, brightness)"
"""What the copies are made by that are sought in full, too."""


def large_apart(sources: list[Path], n: int) -> list[dict[str, Any]]:
    """Audit a large archive in a process of its own, whose peak of memory is then its own too."""
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "large.zip"
        write_archive(archive, sources, n)
        child("load", str(archive))  # decodes into the cache, which is not the audit's time
        found = child("audit", str(archive))
    said = "; ".join(f"{key}: {value}" for key, value in found.items() if isinstance(value, str) and key != "what")
    whole = {"row": "all", "peak MiB": found["peak MiB"], "the audit says": said}
    parts = ({"row": part, **seconds(found, part)} for part in ("load", "copies", "shortcuts"))
    return [*parts, whole]


def growth_apart(views: int, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Search for near hashes among rising numbers of them, in a process of its own; a row each, then the exponents."""
    found = child("hashes", str(views), str(rounds), *map(str, sizes))
    rows = [
        {
            "row": f"{row['n']:,} hashes",
            **seconds(row, "search"),
            "peak MiB": row["peak MiB"],
            "ns per look-up": row["ns per look-up"],
            "ns per N log2 N": row["ns per n log2 n"],
        }
        for row in found["sizes"]
    ]
    fitted = ", ".join(
        f"{key.removeprefix('exponent of ')} {found[key]}" for key in found if key.startswith("exponent")
    )
    factor = f"{found['last to first']} times the CPU s per N log2 N over this range (median of {rounds} rounds)"
    return [*rows, {"row": "exponents in N", "the audit says": f"{fitted}; {factor}"}]


def pairs_apart(source: str, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Seek copies by the search and by comparing all, in turn, in a process of its own; a row for each number."""
    rows = child("pairs", source, str(rounds), *map(str, sizes))["sizes"]
    return [
        {
            "row": f"{row['n']:,} pictures",
            "CPU s": row["search cpu s"],
            "all with all, CPU s": row["all cpu s"],
            "all / search": row["all / search"],
            "copies found": rdf.wilson(row["found"], row["pairs"]),
        }
        for row in rows
    ]


def seconds(row: dict[str, Any], part: str) -> dict[str, Any]:
    return {"CPU s": row[f"{part} cpu s"], "wall s": row[f"{part} s"]}


def write_archive(path: Path, sources: list[Path], n: int) -> None:
    """Pack the sources' pictures and, up to ``n``, means of two of a class: natural enough, and no two alike."""
    sets = [rdf.load_images(str(source)) for source in sources]
    data, labels = (np.concatenate([getattr(s, name) for s in sets]) for name in ("data", "labels"))
    data, labels = data[labels >= 0], labels[labels >= 0]
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(n):
            picture, label = data[k % len(data)], labels[k % len(data)]
            if k >= len(data):
                other = data[rng.choice(np.flatnonzero(labels == label))]
                picture = ((picture.astype(np.uint16) + other) // 2).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(picture.transpose(1, 2, 0)).save(file, "JPEG", quality=95)
            archive.writestr(f"{'fake' if label else 'real'}/{k}.jpg", file.getvalue())


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


@contextmanager
def timed(row: dict[str, Any], name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    row[f"{name} s"] = round(time.perf_counter() - wall, 4)
    row[f"{name} cpu s"] = round(time.process_time() - cpu, 4)


def growth(views: int, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Search among rising numbers of random hashes, so many views of each and their flips, and fit the exponents.

    The sizes take turns. Of each the least of the rounds counts: other work on the machine only adds.
    """
    runs: list[list[float]] = [[] for _ in sizes]
    rows: list[dict[str, Any]] = [{"n": n} for n in sizes]
    for _ in range(rounds):
        for row, cpu in zip(rows, runs, strict=True):
            n: int = row["n"]
            run: dict[str, Any] = {}
            hashes = np.random.default_rng(0).integers(0, 2**64, (views, n), dtype=np.uint64)
            with timed(run, "search"):
                candidates(hashes, hashes[0], same=True)
            cpu.append(run["search cpu s"] / (n * math.log2(n)))
            row |= run if cpu[-1] == min(cpu) else {}
            row.setdefault("peak MiB", peak())  # in the first round no larger size has been before
    for row in rows:
        row["look-ups"] = (2 * views + 2) * row["n"] * len(bands(row["n"]))
        row["ns per look-up"] = round(row["search cpu s"] * 1e9 / row["look-ups"], 2)
        row["n log2 n"] = row["n"] * math.log2(row["n"])
        row["ns per n log2 n"] = round(row["search cpu s"] * 1e9 / row["n log2 n"])
    logs = {name: np.log([row[name] for row in rows]) for name in ("n", "search cpu s", "look-ups", "n log2 n")}
    fitted = {f"exponent of {k}": round(float(np.polyfit(logs["n"], v, 1)[0]), 3) for k, v in logs.items() if k != "n"}
    factor = statistics.median(last / first for first, last in zip(runs[0], runs[-1], strict=True))
    return {"views": views, "sizes": rows, "last to first": round(factor, 3), **fitted}


def pairs(source: str, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Seek the copies among so many pictures, half of them a training pipeline's copies, by the search and in full.

    What the pixel check then takes for a copy counts; it is not in the time.
    """
    from planted import changed  # imports torch, whose memory is not that of the other parts

    data, rows = rdf.load_images(source).data, []
    for n in sizes:
        half = data[: n // 2]
        thumbs = thumbnails(np.concatenate([half, changed(half, PIPELINE)]))
        hashes, runs = view_hashes(thumbs), []
        for _ in range(rounds):
            run: dict[str, Any] = {}
            with timed(run, "search"):
                some = candidates(hashes, hashes[0], same=True)
            with timed(run, "all"):
                every = all_with_all(hashes)
            runs.append(run)
        row = {key: min(run[key] for run in runs) for key in ("search cpu s", "all cpu s")}
        ratio = statistics.median(run["all cpu s"] / run["search cpu s"] for run in runs)
        some_pairs, every_pair = copied(thumbs, some), copied(thumbs, every)
        found = len(np.intersect1d(some_pairs, every_pair))
        rows.append({"n": n, **row, "all / search": round(ratio, 2), "found": found, "pairs": len(every_pair)})
    return {"sizes": rows}


def copied(thumbs: np.ndarray, found: Candidates) -> Index:
    """Number the pairs of pictures that the pixel check takes for copies, each once."""
    alike = confirm(thumbs, thumbs, found)[0]
    first, second = found.first[alike], found.second[alike]
    return np.unique(np.minimum(first, second) * len(thumbs) + np.maximum(first, second))


def all_with_all(hashes: Hashes) -> Candidates:
    """Compare every view and flip with every image; returns what `candidates` does, and misses nothing."""
    n = hashes.shape[1]
    found, step = [np.empty((4, 0), np.intp)], max(1, (1 << 16) // n)  # what fits into a core's cache
    for view, row in enumerate(hashes):
        for flip, mirrored in enumerate(FLIPS if view == 0 else FLIPS[:2]):
            sought = row ^ flip_mask(*mirrored)
            for begin in range(0, n, step):
                distance = np.bitwise_count(sought[begin : begin + step, None] ^ hashes[0]).ravel()
                near = np.flatnonzero(distance <= RADIUS)
                found.append(np.stack([near + begin * n, 0 * near + view, 0 * near + flip, distance[near]]))
    pair, view, flip, distance = (column for column in np.concatenate(found, axis=1))
    order = np.lexsort((view, distance, flip, pair))
    order = order[pair[order] // n != pair[order] % n]
    key = 4 * pair[order] + flip[order]
    order = order[np.diff(key, prepend=-1) != 0]
    return Candidates(pair[order] // n, pair[order] % n, view[order], flip[order], distance[order])


def peak() -> int:
    """This process's peak of memory in MiB; getrusage's is also that of the process this one was forked from."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


def main(what: str, *arguments: str) -> None:
    row: dict[str, Any] = {"what": what}
    if what in ("hashes", "pairs"):
        neighbours.THREADS = 1
        first, rounds, *sizes = arguments
        numbers = [int(size) for size in sizes]
        many = what == "hashes"
        row |= growth(int(first), numbers, int(rounds)) if many else pairs(first, numbers, int(rounds))
    else:
        with timed(row, "load"):
            images = rdf.load_images(arguments[0])
        row["n"] = len(images)
    if what == "audit":
        with timed(row, "copies"):
            found = find_copies(images)
            row |= {f.id: f.detail for f in duplicate_findings(images, found)}
        with timed(row, "shortcuts"):
            row |= {f.id: f.detail for f in shortcuts(images)}
    row["peak MiB"] = peak()
    print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
