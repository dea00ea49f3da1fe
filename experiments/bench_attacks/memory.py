"""Peak memory of an attack on the first N of 20,000 images, in a process of its own, whose peak is nobody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

IMAGES, SIDE = 20_000, 32
EPSILONS = (0.02, 0.05)


def peak(n: int) -> float:
    """Return the peak memory in MB of a process that attacks ``n`` images by FGSM and PGD-5."""
    out = subprocess.run([sys.executable, __file__, str(n)], check=True, capture_output=True, text=True)
    return float(out.stdout)


def attack(n: int) -> None:
    import numpy as np
    import torch
    from torch import nn

    import robustbench_df as rdf
    from robustbench_df.robustness import AttackPlan, Cell, Work, attack_images

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    images = rdf.image_set_from_arrays(pixels, generator.integers(0, 2, IMAGES))
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (SIDE // 2) ** 2, 2))
    detector = rdf.Detector(nn.Sequential(*layers)).eval()
    work = [Work(detector, np.arange(n), "test", -1)]
    for spec in (rdf.AttackSpec(name="fgsm"), rdf.AttackSpec(name="pgd", steps=5)):
        for eps in EPSILONS:
            cell = Cell("tiny", "base", spec, rdf.Threat("linf", eps), Path())
            (table,) = attack_images([cell], work, images, AttackPlan(device="cpu"), lambda _: None)
            assert len(table) == n


def own_peak() -> float:
    """This process's peak of memory in MB; getrusage's is also that of the process this one was forked from."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    attack(int(sys.argv[1]))
    print(own_peak())
