"""What was seen at clean images, kept for further attacks on them.

One forward and one gradient at the clean image serve every budget of FGSM, and PGD's first step. `run_sweep` takes all
budgets of a batch at once and needs to keep nothing, but has no budget done before the last batch; where the direction
is kept in a file, a sweep finishes its budgets one after the other, and memory stays flat.
"""

from __future__ import annotations

import hashlib
from typing import IO

import numpy as np
import torch

from robustbench_df.attacks.victim import Victim


class CleanPasses:
    """What detectors answered to clean images, and the gradient there, by pixels and label.

    The first attack that asks about an image makes its pass, and counts it. All attacks must be in one norm, and use no
    more of the gradient than the direction of a step (`Geometry.ascent`): FGSM, and PGD without momentum. The detectors
    must live as long as this does.

    Args:
        file: open for reading and writing, empty. A value of an image takes one byte in L∞, where the gradient's sign
            says it all, else four.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def open(self, victim: Victim) -> None:
        """Open a victim (`Victim.open`), without a pass if all of its images are known."""
        kind = "i1" if victim.norm == "linf" else "<f4"
        record = np.dtype([("logits", "<f4", (2,)), ("gradient", kind, tuple(victim.x.shape[1:]))])
        keys = _keys(victim)
        if all(key in self._places for key in keys):
            known = np.frombuffer(b"".join(self._read(key, record.itemsize) for key in keys), record)
            logits, gradient = (torch.from_numpy(known[name].copy()).to(victim.x) for name in ("logits", "gradient"))
            victim.reopen(logits, gradient)
            return
        victim.open(gradient=True)
        assert victim.clean_gradient is not None
        gradient = victim.clean_gradient.sign() if victim.norm == "linf" else victim.clean_gradient
        new = np.empty(len(keys), record)
        new["logits"], new["gradient"] = victim.clean_logits.cpu().numpy(), gradient.cpu().numpy()
        start = self._file.seek(0, 2)
        self._file.write(new.tobytes())
        self._places |= {key: start + k * record.itemsize for k, key in enumerate(keys)}

    def _read(self, key: bytes, size: int) -> bytes:
        self._file.seek(self._places[key])
        return self._file.read(size)


def _keys(victim: Victim) -> list[bytes]:
    """Digests by which images are known again, whatever ids they come under; the gradient depends on the label."""
    rest = [bytes([label]) + id(victim.detector).to_bytes(8, "little") for label in victim.y.tolist()]
    images = victim.x.cpu().numpy()
    return [hashlib.blake2b(x.tobytes() + more, digest_size=16).digest() for x, more in zip(images, rest, strict=True)]
