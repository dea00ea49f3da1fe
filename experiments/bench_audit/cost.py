"""Seconds and memory: the fast part of the audit on a large archive, and the growth of the search for near hashes."""

from __future__ import annotations

import io
import json
import math
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
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.duplicates import duplicate_findings
from robustbench_df.audit.neighbours import bands, candidates
from robustbench_df.audit.shortcuts import shortcuts


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


def growth_apart(views: int, sizes: list[int]) -> list[dict[str, Any]]:
    """Search for near hashes among rising numbers of them, in a process of its own; a row each, then the exponents."""
    found = child("hashes", str(views), *map(str, sizes))
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
    return [*rows, {"row": "exponents in N", "the audit says": fitted}]


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
    row[f"{name} s"] = round(time.perf_counter() - wall, 2)
    row[f"{name} cpu s"] = round(time.process_time() - cpu, 2)


def growth(views: int, sizes: list[int]) -> dict[str, Any]:
    """Search among rising numbers of random hashes, so many views of each and their flips, and fit the exponents."""
    rows: list[dict[str, Any]] = []
    for n in sizes:
        hashes = np.random.default_rng(0).integers(0, 2**64, (views, n), dtype=np.uint64)
        runs: list[dict[str, Any]] = [{"n": n}, {"n": n}]
        for run in runs:
            with timed(run, "search"):
                candidates(hashes, hashes[0], same=True)
        row = min(runs, key=lambda run: float(run["search cpu s"]))  # other work on the machine only adds
        row["look-ups"] = (2 * views + 2) * n * len(bands(n))
        row["ns per look-up"] = round(row["search cpu s"] * 1e9 / row["look-ups"], 2)
        row["n log2 n"] = n * math.log2(n)
        row["ns per n log2 n"] = round(row["search cpu s"] * 1e9 / row["n log2 n"])
        rows.append(row | {"peak MiB": peak()})
        print(rows[-1], file=sys.stderr)
    logs = {name: np.log([row[name] for row in rows]) for name in ("n", "search cpu s", "look-ups", "n log2 n")}
    fitted = {f"exponent of {k}": round(float(np.polyfit(logs["n"], v, 1)[0]), 3) for k, v in logs.items() if k != "n"}
    return {"views": views, "sizes": rows, **fitted}


def peak() -> int:
    """This process's peak of memory in MiB; getrusage's is also that of the process this one was forked from."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


def main(what: str, *arguments: str) -> None:
    row: dict[str, Any] = {"what": what}
    if what == "hashes":
        views, *sizes = map(int, arguments)
        row |= growth(views, sizes)
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
