"""Store the logits and gradients at clean images for further attacks on the same images.

One forward and one gradient at the clean image serve every budget of FGSM, and PGD's first step. `run_sweep` attacks
each batch at all budgets and therefore stores nothing, but no budget is complete before the last batch. With the
directions stored in a file, a sweep can finish one budget after the other, and memory use stays constant.
"""

from __future__ import annotations

import hashlib
from typing import IO

import numpy as np
import torch

from robustbench_df.attacks.victim import Victim


class CleanPasses:
    """Detectors' logits and gradients at clean images, looked up by pixels, label and detector.

    The first attack that opens an image makes its clean pass, and the pass is counted there. All attacks must be in one
    norm and use only the direction that the gradient gives a step (`Geometry.ascent`), as FGSM and PGD without momentum
    do. The detectors must live as long as this object, because they are identified by ``id()``.

    Args:
        file: an empty binary file, open for reading and writing. Each value of an image takes one byte in L∞, where
            only the gradient's sign is needed, else four.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def open(self, victim: Victim) -> None:
        """Open a victim (`Victim.open`); make no pass if all of its images are stored."""
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
    """Digests that identify images independently of their ids; they cover the label, as the gradient depends on it."""
    rest = [bytes([label]) + id(victim.detector).to_bytes(8, "little") for label in victim.y.tolist()]
    images = victim.x.cpu().numpy()
    return [hashlib.blake2b(x.tobytes() + more, digest_size=16).digest() for x, more in zip(images, rest, strict=True)]
