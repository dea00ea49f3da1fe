"""Planted faults, found or not; what the audit says of real sets; what it costs. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cost import costs
from planted import copies, faults, one_per_tile

import robustbench_df as rdf
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.front import audit

HERE = Path(__file__).parent
CONFIG = tomllib.loads((HERE / "config.toml").read_text())
Rows = Iterator[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("RDF_DATA"), help="folder of archives; $RDF_DATA if not given")
    parser.add_argument("--part", nargs="*", help="copies, faults, findings, cost; all if not given")
    asked = parser.parse_args()
    data = Path(asked.data) if asked.data else None
    pools = {"demo": (one_per_tile(), rdf.load_images("demo"))}
    if data is not None:
        images = rdf.load_images(str(data / CONFIG["natural"]))
        images = images.subset(np.arange(0, len(images), CONFIG["every"]))
        once = images.subset(np.setdiff1d(np.arange(len(images)), find_copies(images).second))
        pools["CIFAKE"] = (once, once)
    parts: dict[str, Callable[[], Rows]] = {
        "copies": lambda: (row for name, (pool, _) in pools.items() for row in copies(name, pool)),
        "faults": lambda: (row for name, (_, pool) in pools.items() for row in faults(name, pool)),
        "findings": lambda: findings(data),
        "cost": lambda: costs(CONFIG["cost"], data),
    }
    out = HERE.parent.parent / "reports" / "experiments" / "bench_audit.json"
    for part in asked.part or parts:
        rows = []
        for row in parts[part]():
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
        kept = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps({**kept, part: rows, "config": CONFIG}, indent=2, ensure_ascii=False) + "\n")


def findings(data: Path | None) -> Rows:
    for name, against in CONFIG["audits"] if data is not None else ():
        other = rdf.load_images(str(data / against)) if against else None
        for found in audit(rdf.load_images(str(data / name)), other).findings:
            yield {"set": name, "against": against} | {k: getattr(found, k) for k in ("id", "severity", "detail")}


if __name__ == "__main__":
    main()
