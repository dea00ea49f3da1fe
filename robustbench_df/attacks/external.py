"""Black-box detectors, of which only the answers are visible: a Python function or a web service.

`external_detector` wraps either as a detector. It has no gradient, so attack it with score or decision attacks, or by
transfer.

``python:module:function``
    The module is imported with the current directory on the path. The function is called with float32
    ``[N, 3, H, W]`` in [0, 1] and returns P(fake) ``[N]`` as a list, numpy array or tensor.

``http://HOST:PORT/path`` (or https)
    One POST per batch. Request, JSON: ``{"shape": [N, 3, H, W], "dtype": "float32", "data": "<base64>"}``, where data
    is the base64 of the pixels in [0, 1] as little-endian float32 in C order. Response, JSON:
    ``{"probability": [p, ...]}`` or the bare list: P(fake) of each image in order.

With a log, every answer is kept in memory and in a file of JSON lines ``{"image": "<hash>", "fake": p}``, and no image
is queried twice: a killed attack that is restarted resumes where it stopped. The hash (BLAKE2b) covers the detector's
address, the image's shape and its pixels, so several detectors may share a file. Delete the file when the detector
behind an address has changed. One answer takes about 200 bytes of memory. With a log, a random detector appears
deterministic.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_df.attacks.answer_log import append_log, read_log
from robustbench_df.attacks.asking import Ask, Busy, Images, http_service, probabilities, python_function
from robustbench_df.errors import ModelError, UsageError, kind_and_line
from robustbench_df.models.wrappers import log_odds, two_logits
from robustbench_df.wording import counted

BACKOFF = 0.5
"""Seconds before the second try; doubled before each further one."""

MOST_BYTES = 8 * 2**20
"""Most pixel data in one request: services commonly refuse bodies of some tens of megabytes."""


def external_detector(
    spec: str,
    *,
    rate: float | None = None,
    retries: int = 3,
    log: Path | None = None,
    timeout: float = 30,
) -> External:
    """Return the detector behind an address; the module docstring says what it must answer.

    Args:
        spec: ``python:module:function`` or an http(s) address.
        rate: most requests per second (one request is about a batch of images); None: no limit.
        retries: further tries after a refused connection, a timeout, HTTP 429 or 5xx; the pause doubles every time.
        log: file of answers, read now and appended to after every request; None keeps no answers.
        timeout: seconds to wait for one HTTP response.

    Raises:
        UsageError: the address has neither form, the module or function does not exist, or ``rate``, ``retries`` or
            ``timeout`` is out of range.
        ModelError: the module fails when imported.
        RunError: the log cannot be read, or is damaged before its last line.
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"the rate must be above 0 requests per second, not {rate:g}")
    if retries < 0 or not timeout > 0:
        raise UsageError(f"retries must be 0 or more and the timeout above 0 s, not {retries} and {timeout:g}")
    ask = python_function(spec) if spec.startswith("python:") else http_service(spec, timeout)
    return External(spec, ask, rate=rate, retries=retries, log=log)


class External(nn.Module):
    """An external detector as a module: ``forward(x [N, 3, H, W] in [0, 1]) -> logits [N, 2]``, without a gradient.

    The logits are the log-odds of P(fake), clamped as in `robustbench_df.models.wrappers.log_odds`. ``asked`` counts
    the images that were sent to the detector, ``served`` those that were answered without it.

    Raises (from forward):
        ModelError: the detector did not answer in any try, or its answer is not N probabilities.
    """

    def __init__(self, name: str, ask: Ask, *, rate: float | None, retries: int, log: Path | None) -> None:
        super().__init__()
        self.name, self._ask, self._rate, self._tries = name, ask, rate, retries + 1
        self._log, self._next = log, 0.0
        self._answers = {} if log is None else read_log(log)
        self.asked = self.served = 0

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` for images ``[N, 3, H, W]`` in [0, 1]."""
        images = np.ascontiguousarray(x.detach().float().cpu().numpy(), dtype="<f4")
        keys = [self._key(image) for image in images]
        known = {} if self._log is None else self._answers
        new: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in known:
                new.setdefault(key, row)
        self.served += len(keys) - len(new)
        rows = list(new.values())
        size = max(MOST_BYTES // max(images[:1].nbytes, 1), 1)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            found = dict(zip([keys[row] for row in part], self._answer(images[part]), strict=True))
            self.asked += len(part)
            if self._log is not None:
                append_log(self._log, found)
            known.update(found)
        p = torch.tensor([known[key] for key in keys], dtype=torch.float64)
        return two_logits(log_odds(p)).float().to(x.device)

    def _key(self, image: Images) -> bytes:
        head = f"{self.name}\0{image.shape}\0".encode()
        return hashlib.blake2b(head + image.tobytes(), digest_size=16).digest()

    def _answer(self, images: Images) -> list[float]:
        """Ask the detector, and retry after a pause while it is busy or cannot be reached."""
        reason: Exception | None = None
        for attempt in range(self._tries):
            if attempt:
                time.sleep(BACKOFF * 2 ** (attempt - 1))
            self._wait_turn()
            try:
                return probabilities(self._ask(images), len(images), self.name)
            except (Busy, ConnectionError, TimeoutError) as error:
                reason = error
        assert reason is not None  # there is at least one try
        kept = "; what it answered so far is in the log" if self._log is not None else ""
        times = counted(self._tries, "try", "tries")
        raise ModelError(
            f"{self.name} gave no answer in {times} ({_said(reason)}); see that it runs and start again{kept}"
        ) from reason

    def _wait_turn(self) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        time.sleep(max(self._next - now, 0))
        self._next = max(self._next, now) + 1 / self._rate


def _said(reason: Exception) -> str:
    """Describe why there was no answer; `Busy` carries its own text."""
    return str(reason) if isinstance(reason, Busy) else kind_and_line(reason)
