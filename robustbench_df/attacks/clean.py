"""The clean pass of a sweep, kept in a file from one budget to the next.

One forward and one gradient at the clean image serve every budget. `run_sweep` takes all budgets of a batch at once and
needs no file, but has no budget done before the last batch; with a file, a sweep finishes its budgets one after the
other, and memory stays flat.
"""

from __future__ import annotations

from typing import IO

import numpy as np
import torch

from robustbench_df.attacks.victim import Victim


class CleanPasses:
    """What a detector answered to clean images, and FGSM's direction there, by image id.

    The first call that asks about an image makes its pass, and counts it.

    Args:
        file: open for reading and writing, empty. Per value of an image it takes one byte in L∞, where the gradient's
            sign says it all, else four.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[int, int] = {}

    def open(self, victim: Victim) -> None:
        """Open a victim (`Victim.open`), without a pass if all of its images are known."""
        ids = victim.ids.tolist()
        kind = "i1" if victim.norm == "linf" else "<f4"
        record = np.dtype([("logits", "<f4", (2,)), ("gradient", kind, tuple(victim.x.shape[1:]))])
        if all(image in self._places for image in ids):
            known = np.frombuffer(b"".join(self._read(image, record.itemsize) for image in ids), record)
            logits, gradient = (torch.from_numpy(known[name].copy()).to(victim.x) for name in ("logits", "gradient"))
            victim.reopen(logits, gradient)
            return
        victim.open(gradient=True)
        assert victim.clean_gradient is not None
        gradient = victim.clean_gradient.sign() if victim.norm == "linf" else victim.clean_gradient
        new = np.empty(len(ids), record)
        new["logits"], new["gradient"] = victim.clean_logits.cpu().numpy(), gradient.cpu().numpy()
        start = self._file.seek(0, 2)
        self._file.write(new.tobytes())
        self._places |= {image: start + k * record.itemsize for k, image in enumerate(ids)}

    def _read(self, image: int, size: int) -> bytes:
        self._file.seek(self._places[image])
        return self._file.read(size)
