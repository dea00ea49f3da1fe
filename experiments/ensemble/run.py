"""Is an ensemble better than its best member: clean, corrupted and attacked as a whole? See README.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    alone = [rdf.Cell(name, {"member": name}) for name in config["pool"]]
    return [
        *alone,
        *(rdf.Cell(f"all, {kind}", {"kind": kind}) for kind in config["kinds"]),
        rdf.Cell("greedy selection"),
    ]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config = lab.config
    if "member" in cell.settings:
        name = config["member"]
        detector = member(lab, name)
        others = [member(lab, other) for other in config["pool"] if other != name]
        more = diversity(lab, detector, others)
    else:
        detector, more = ensemble(lab, config.get("kind"))
    labels = lab.images.labels[lab.split.test]
    return {
        "clean": lab.accuracy(detector),
        "AUC": rdf.auc_interval(lab.margins(detector), labels),
        "corrupted": lab.corrupted(detector, config["corruptions"], config["severity"]),
        "FGSM .05": lab.robust(detector, "fgsm", config["eps"]),
        "PGD-20 2/255": lab.robust(detector, "pgd", config["standard_eps"], steps=20),
        **more,
    }


def member(lab: rdf.Lab, name: str) -> rdf.Detector:
    return lab.trained(lab.recipe(**lab.config["pool"][name]))


def ensemble(lab: rdf.Lab, kind: str | None) -> tuple[rdf.Detector, dict[str, Any]]:
    """The whole pool weighed as ``kind`` says, or members picked one by one where that is None; all on val."""
    members = [member(lab, name) for name in lab.config["pool"]]
    logits = np.stack([rdf.predict_logits(m, lab.images, lab.split.val) for m in members])
    labels = lab.images.labels[lab.split.val]
    if kind is not None:
        weights = rdf.fit_weights(kind, logits, labels)
        return rdf.assemble(members, weights), {"weights": str(np.round(weights.weights, 2))}
    picked = np.zeros(len(members))
    probability = torch.from_numpy(logits).double().softmax(2)[..., 1].numpy()
    for _ in range(lab.config["picks"]):  # Caruana et al. 2004: with repetition, by the log loss of the mean

        def loss(k: int) -> float:
            p = (picked @ probability + probability[k]) / (picked.sum() + 1)
            return float(-np.log(np.clip(np.where(labels == 1, p, 1 - p), 1e-6, 1)).mean())

        picked[min(range(len(members)), key=loss)] += 1
    return rdf.Ensemble(members, picked.tolist()).eval(), {"weights": str(np.round(picked / picked.sum(), 2))}


def diversity(lab: rdf.Lab, detector: rdf.Detector, others: list[rdf.Detector]) -> dict[str, float]:
    """How often the others say something else, and how often they are right on what fools this one."""
    own, x = lab.margins(detector) >= 0, lab.attack(detector, "pgd", lab.config["standard_eps"], early_stop=False).x_adv
    y = torch.from_numpy(lab.images.labels[lab.attacked_index].astype(np.int64))
    with torch.no_grad():
        right = [float((other(x).argmax(1) == y).float().mean()) for other in others]
    apart = [float(((lab.margins(other) >= 0) != own).mean()) for other in others]
    return {"says otherwise than the others": np.mean(apart), "others right on its PGD": np.mean(right)}


if __name__ == "__main__":
    rdf.experiment_main(__file__)
