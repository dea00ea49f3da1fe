"""Every way to run a detector, timed in turn; and what int8 costs in accuracy. See README.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import robustbench_df as rdf

QUICK = Path("runs/experiments/bench_inference/run")


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    models = {name: {"model": name, **config["own"].get(name, {})} for name in config["models"]}
    judged = [rdf.Cell(f"{m}, int8", own) for m, own in models.items()]
    timed = [
        [rdf.Cell(f"{m}, {n} thread{'s' * (n > 1)}", {**own, "own_threads": n}) for m, own in models.items()]
        for n in config["threads"]
    ]
    first = [cell for pair in zip(judged, timed[0], strict=True) for cell in pair]  # files made to judge are timed
    return [*first, *(cell for more in timed[1:] for cell in more)]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> list[dict[str, Any]]:
    run, config, model = opened(lab), lab.config, cell.settings["model"]
    if "own_threads" not in cell.settings:
        judged = rdf.FidelityPlan(images=config["images"], attacked=config["attacked"], folds=config["folds"])
        wanted = {"model": model, "phase": config["phase"]}
        rdf.export_run(run, rdf.ExportPlan(**wanted))
        made = rdf.export_run(run, rdf.ExportPlan(**wanted, int8=True, judged=judged), reporter=lab.reporter)
        return [cost(name, found) for name, found in made.facts["int8"]["conditions"].items()]
    plan = rdf.BenchPlan(
        models=(model,),
        phase=config["phase"],
        batches=config["batches"],
        compiled=config["compiled"],
        seconds=config["seconds"],
        device=lab.device,
        threads=cell.settings["own_threads"],
    )
    return [times(rdf.bench_run(run, plan, lab.reporter)["rows"])]


def opened(lab: rdf.Lab) -> rdf.Run:
    if lab.config["run"] or (QUICK / "DONE").exists():
        return rdf.open_run(lab.config["run"] or QUICK)
    small = {"epochs": 1, "image_budget": 4000}
    config = rdf.load_config("quick", models=("resnet_se_small", "mlp"), phase1=small, phase2={"epochs": 0})
    return rdf.train_all(config, QUICK, resume=QUICK.exists(), reporter=lab.reporter)


def cost(name: str, found: dict[str, Any]) -> dict[str, Any]:
    change = found["difference"]
    points = {
        "int8 − float32, pp": 100 * change["difference"],
        "low": 100 * change["low"],
        "high": 100 * change["high"],
    }
    return {"row": name, **{side: rdf.Interval(**found[side]) for side in ("float32", "int8")}, **points}


def times(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"row": "time"}
    for row in rows:
        way, batch = row["way"], row["batch"]
        if "not_run" in row:
            out |= {f"{way}: × at {batch}": "not run", f"{way}: why not": row["not_run"]}
            continue
        said = {"ms": "median_ms", "p95 ms": "p95_ms", "images/s": "images_per_second", "×": "times_faster"}
        out |= {f"{way}: {word} at {batch}": row[key] for word, key in said.items() if row[key] is not None}
        sizes = {"MiB": "weights_bytes", "working MiB": "memory_bytes"}
        out |= {f"{way}: {word}": row[key] / 2**20 for word, key in sizes.items() if row[key] is not None}
    return out


if __name__ == "__main__":
    rdf.experiment_main(__file__)
