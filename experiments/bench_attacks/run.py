"""Our attacks against torchattacks, foolbox, ART and AutoAttack: same detector, images and threads. See README.md."""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from torch import Tensor

import robustbench_df as rdf

HERE = Path(__file__).parent
CONFIG = tomllib.loads((HERE / "config.toml").read_text())
STEP = 2.5 * CONFIG["pgd_eps"] / CONFIG["pgd_steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help="a run trained on real data; the latest one if not given")
    run = rdf.open_run(parser.parse_args().run)
    images, rows = run.images(), []
    for name in CONFIG["models"]:
        detector = run.detector(name, CONFIG["phase"]) if run.folds == 1 else fold_detector(run, name)
        x, y = unseen(run, images)
        for measure in (fgsm_sweep, pgd, standard, agreement):
            rows.append({"model": name, **measure(detector, x, y)})
            print(json.dumps(rows[-1]), flush=True)
    out = HERE.parent.parent / "reports" / "experiments" / "bench_attacks.json"
    out.write_text(json.dumps({"config": CONFIG, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


def fold_detector(run: rdf.Run, name: str) -> rdf.Detector:
    return rdf.load_checkpoint(run.model_dir(name, 0), CONFIG["phase"])


def unseen(run: rdf.Run, images: rdf.ImageSet) -> tuple[Tensor, Tensor]:
    table = run.split[run.split["part"] == ("test" if run.folds == 1 else "cal")]
    ids = table[table["fold"] <= 0]["image_id"].tolist()
    index = np.flatnonzero(np.isin(images.ids.astype(str), ids))
    x = torch.from_numpy(images.pixels(index)).float() / 255
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.from_numpy(images.labels[index].astype(np.int64))[order]


def fgsm_sweep(d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, grid = x[: CONFIG["images"]], y[: CONFIG["images"]], CONFIG["fgsm_epsilons"]

    def ours() -> object:
        return rdf.run_sweep(d, x, y, rdf.AttackSpec(name="fgsm"), grid, cumulative=False)

    # Success is not what libraries report: each must still score what it made, as any user has to.
    them = {k: lambda f=f: [right(d, f(d, x, y, eps), y) for eps in grid] for k, f in peers.FGSM.items()}
    return {"what": f"FGSM, {len(grid)} budgets", **compare(ours, them)}


def pgd(d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, eps, steps = x[: CONFIG["images"]], y[: CONFIG["images"]], CONFIG["pgd_eps"], CONFIG["pgd_steps"]
    spec = rdf.AttackSpec(name="pgd", eps=eps, steps=steps, step_size=STEP)
    them = {k: lambda f=f: right(d, f(d, x, y, eps, steps, STEP), y) for k, f in peers.PGD.items()}
    return {"what": f"PGD-{steps}, eps {eps}", **compare(lambda: rdf.run_attack(d, x, y, spec), them)}


def standard(d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    n, eps = CONFIG["standard_images"], CONFIG["standard_eps"]
    them = {"autoattack": lambda: right(d, peers.autoattack(d, x[:n], y[:n], eps), y[:n])}
    return {
        "what": f"standard, eps {eps}",
        **compare(lambda: rdf.run_suite(d, x[:n], y[:n], "standard", eps=eps), them, pairs=1),
    }


def agreement(d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Robust accuracies on the same images: ours must not be above theirs."""
    x, y, eps, steps = (
        x[: CONFIG["agreement_images"]],
        y[: CONFIG["agreement_images"]],
        CONFIG["pgd_eps"],
        CONFIG["pgd_steps"],
    )
    spec = rdf.AttackSpec(name="pgd", eps=eps, steps=steps, step_size=STEP)
    row = {"ours": rdf.run_attack(d, x, y, spec).robust_accuracy}
    row |= {k: float(right(d, f(d, x, y, eps, steps, STEP), y).float().mean()) for k, f in peers.PGD.items()}
    return {"what": f"robust accuracy on {len(x)}, PGD-{steps}, eps {eps}", **{k: round(v, 4) for k, v in row.items()}}


@torch.no_grad()
def right(d: rdf.Detector, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([d(part).argmax(1) for part in x.split(64)]) == y


def compare(ours: Callable[[], object], them: dict[str, Callable[[], object]], pairs: int = 0) -> dict[str, Any]:
    """Median seconds of each, taken in turn, and the ratio of the fastest peer to ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *them)}
    for _ in range(pairs or CONFIG["pairs"]):
        for name, call in (("ours", ours), *them.items()):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(
        min(seconds[name][k] for name in them) / seconds["ours"][k] for k in range(len(seconds["ours"]))
    )
    return {
        **{f"{k} s": round(statistics.median(v), 2) for k, v in seconds.items()},
        "fastest peer / ours": round(ratio, 2),
    }


if __name__ == "__main__":
    main()
