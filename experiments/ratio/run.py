"""How much of phase 2 should be adversarial: is 70/30 the right mixture? See README.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [cell for frontend, name in config["frontends"].items() for cell in rows(frontend, name, config)]


def rows(frontend: str, name: str, config: dict[str, Any]) -> Iterator[rdf.Cell]:
    """Phase 1 alone, then every mixture, of one front-end."""
    model = {"frontend": frontend}
    yield rdf.Cell(f"phase 1 alone{name}", {"recipe": {"model": model}, "phase": "base"})
    wanted = [(ratio, "sample") for ratio in config["ratios"]] + [(ratio, "batch") for ratio in config["batch_mixed"]]
    for ratio, mix in wanted:
        said = f"{100 - 100 * ratio:.0f}/{100 * ratio:.0f}" + (" by batch" if mix == "batch" else "")
        phase2 = {"ratio": ratio, "mix": mix, "select": "last"}
        yield rdf.Cell(said + name, {"recipe": {"model": model, "phase2": phase2}, "phase": "final"})


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    detector = lab.trained(phase=cell.settings["phase"])
    eps, labels = lab.config["eps"], lab.images.labels[lab.attacked_index]
    fgsm = lab.attack(detector, "fgsm", eps).robust.numpy()
    classes = {"real under FGSM": fgsm[labels == 0], "fake under FGSM": fgsm[labels == 1]}
    return {
        "clean": lab.accuracy(detector),
        "FGSM .05": rdf.wilson(int(fgsm.sum()), len(fgsm)),
        **{name: rdf.wilson(int(stands.sum()), len(stands)) for name, stands in classes.items()},
        "PGD-20 .05": lab.robust(detector, "pgd", eps, steps=20),
        "standard 2/255": lab.withstood(detector, lab.config["standard"], lab.config["standard_eps"]),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
