"""Detectors of which only the answers can be seen: a Python function, or a web service.

`external_detector` makes a detector of either. It has no gradient: attack it with score or decision attacks, or by
transfer.

``python:module:function``
    imported with the current directory on the path, and called with float32 ``[N, 3, H, W]`` in [0, 1]; returns P(fake)
    ``[N]`` as a list, numpy array or tensor.

``http://HOST:PORT/path`` (or https)
    one POST per batch. Request, JSON: ``{"shape": [N, 3, H, W], "dtype": "float32", "data": "<base64>"}``, the base64
    of the pixels in [0, 1] as little-endian float32 in C order. Response, JSON: ``{"probability": [p, ...]}`` or the
    bare list, P(fake) of each image in order.

With a log, every answer is kept, in memory and in a file of JSON lines ``{"image": "<hash>", "fake": p}``, and nothing
is asked twice: a killed attack that is started again goes on where it stood. The hash (BLAKE2b) covers the detector's
address, the shape and the pixels, so detectors may share a file; delete it when the detector behind an address has
changed. One answer takes about 200 bytes of memory. A detector that is random looks fixed behind a log.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError, RunError, UsageError
from robustbench_df.models.wrappers import log_odds, two_logits

Images = npt.NDArray[np.float32]
Ask = Callable[[Images], object]

BACKOFF = 0.5
"""Seconds before the second try; doubled before each further one."""

MOST_BYTES = 8 * 2**20
"""Most pixel data in one request: services commonly refuse bodies of some tens of megabytes."""

_TOO_MANY, _SERVER_ERROR = 429, 500
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOLERANCE = 1e-6
"""What float32 rounding may add to a probability."""


class _Busy(Exception):  # noqa: N818  (a state of the service, met again a moment later)
    """The service cannot answer now."""


def external_detector(
    spec: str,
    *,
    rate: float | None = None,
    retries: int = 3,
    log: Path | None = None,
    timeout: float = 30,
) -> External:
    """Return the detector behind an address; see the module's page for what it must answer.

    Args:
        spec: ``python:module:function`` or an http(s) address.
        rate: most requests per second (one request asks about a batch); None: no limit.
        retries: further tries after a refused connection, a timeout, HTTP 429 or 5xx, with doubling pauses.
        log: file of answers, read now and added to after every request; None keeps nothing.
        timeout: seconds to wait for one http response.

    Raises:
        UsageError: an address of neither form, a module or function that is not there, a wrong rate or number of tries.
        ModelError: the module fails when imported.
        RunError: the log cannot be read, or is damaged before its last line.
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"the rate must be above 0 requests per second, not {rate:g}")
    if retries < 0 or not timeout > 0:
        raise UsageError(f"retries must be 0 or more and the timeout above 0 s, not {retries} and {timeout:g}")
    ask = _python(spec) if spec.startswith("python:") else _http(spec, timeout)
    return External(spec, ask, rate=rate, retries=retries, log=log)


class External(nn.Module):
    """A detector that is asked, ``forward(x [N, 3, H, W] in [0, 1]) -> logits [N, 2]``, without a gradient.

    The logits are the log-odds of P(fake), clamped as in `robustbench_df.models.wrappers.log_odds`. ``asked`` counts
    the images the detector was asked about, ``served`` those whose answer was known.

    Raises (from forward):
        ModelError: it did not answer after the last try, or answered with something else than N probabilities.
    """

    def __init__(self, name: str, ask: Ask, *, rate: float | None, retries: int, log: Path | None) -> None:
        super().__init__()
        self.name, self._ask, self._rate, self._tries = name, ask, rate, retries + 1
        self._log, self._next = log, 0.0
        self._answers = {} if log is None else _read_log(log)
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
                _append_log(self._log, found)
            known.update(found)
        p = torch.tensor([known[key] for key in keys], dtype=torch.float64)
        return two_logits(log_odds(p)).float().to(x.device)

    def _key(self, image: Images) -> bytes:
        head = f"{self.name}\0{image.shape}\0".encode()
        return hashlib.blake2b(head + image.tobytes(), digest_size=16).digest()

    def _answer(self, images: Images) -> list[float]:
        """Ask, again after a pause if need be."""
        reason: Exception | None = None
        for attempt in range(self._tries):
            if attempt:
                time.sleep(BACKOFF * 2 ** (attempt - 1))
            self._wait_turn()
            try:
                return _probabilities(self._ask(images), len(images), self.name)
            except (_Busy, ConnectionError, TimeoutError) as error:
                reason = error
        kept = "; what it answered so far is in the log" if self._log is not None else ""
        times = f"{self._tries} tries" if self._tries > 1 else "1 try"
        raise ModelError(
            f"{self.name} gave no answer in {times} ({_said(reason)}); see that it runs and start again{kept}"
        ) from reason

    def _wait_turn(self) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        time.sleep(max(self._next - now, 0))
        self._next = max(self._next, now) + 1 / self._rate


def _probabilities(said: object, n: int, name: str) -> list[float]:
    """Return n numbers in [0, 1], refuse anything else.

    Raises:
        ModelError: see there; the message names the value.
    """
    try:
        values = np.asarray(said.detach().double().cpu() if isinstance(said, Tensor) else said, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} answered with something else than numbers ({_line(error)})") from error
    if values.shape not in ((n,), (n, 1)):
        raise ModelError(f"{name} answered with shape {values.shape} for {n} images; it must return P(fake) ({n},)")
    values = values.reshape(n)
    if np.isnan(values).any():
        raise ModelError(f"{name} answered NaN for image {int(np.isnan(values).argmax())} of {n}; P(fake) is in [0, 1]")
    off = (values < -_TOLERANCE) | (values > 1 + _TOLERANCE)
    if off.any():
        raise ModelError(
            f"{name} answered {values[off][0]:g}, which is no probability; it must return P(fake) in [0, 1], no logits"
        )
    return [float(value) for value in values.clip(0, 1)]


def _python(spec: str) -> Ask:
    """Import ``python:module:function``."""
    module_name, _, function_name = spec.removeprefix("python:").partition(":")
    if not module_name or not function_name:
        raise UsageError(f"'{spec}' names no function; write python:MODULE:FUNCTION")
    try:
        with _current_directory_first():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"no module '{module_name}' here ({Path.cwd()}) or among the installed ones") from error
        raise ModelError(f"module '{module_name}' needs '{error.name}', which is not installed") from error
    except Exception as error:  # whatever someone else's module does when imported
        raise ModelError(f"module '{module_name}' fails when imported: {_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"module '{module_name}' has no function '{function_name}'")

    def ask(images: Images) -> object:
        try:
            return function(images)
        except (ConnectionError, TimeoutError):
            raise  # it may stand for a service: worth another try
        except Exception as error:  # whatever someone else's function does
            raise ModelError(f"{spec} failed on {len(images)} images: {_line(error)}") from error

    return ask


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _http(address: str, timeout: float) -> Ask:
    """Return a function that posts images to ``address``."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        usable = False
    if not usable:
        raise UsageError(
            f"'{address}' is no address of a detector; write python:MODULE:FUNCTION or http://HOST:PORT/PATH"
        )
    # A proxy from the environment cannot reach this machine's own services.
    proxies = [urllib.request.ProxyHandler({})] if parts.hostname in _LOOPBACK else []
    opener = urllib.request.build_opener(*proxies)

    def ask(images: Images) -> object:
        data = base64.b64encode(images.astype("<f4", copy=False).tobytes()).decode()
        body = json.dumps({"shape": list(images.shape), "dtype": "float32", "data": data}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with opener.open(request, timeout=timeout) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            with error:
                status = f"HTTP {error.code} {error.reason}"
            if error.code == _TOO_MANY or error.code >= _SERVER_ERROR:
                raise _Busy(status) from error
            raise ModelError(f"{address} refused the images: {status}") from error
        except (OSError, http.client.HTTPException) as error:  # refused, reset, cut off, timed out
            raise _Busy(_line(error)) from error
        return _parsed(raw, address)

    return ask


def _parsed(raw: bytes, address: str) -> object:
    try:
        said: Any = json.loads(raw)
    except ValueError as error:
        raise ModelError(f"{address} answered with something else than JSON: {raw[:60]!r}") from error
    if isinstance(said, dict):
        if "probability" not in said:
            raise ModelError(
                f"{address} answered without the key 'probability', only {', '.join(said) or 'an empty {}'}"
            )
        said = said["probability"]
    return said


def _read_log(path: Path) -> dict[bytes, float]:
    """Read the answers of a log; what a killed process left half-written at its end is cut off."""
    answers: dict[bytes, float] = {}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return answers
    except OSError as error:
        raise RunError(f"the log '{path}' cannot be read ({_line(error)}); name another file") from error
    *lines, rest = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            answers[bytes.fromhex(entry["image"])] = _probabilities([entry["fake"]], 1, "the log")[0]
        except (ValueError, KeyError, TypeError, ModelError) as error:
            raise RunError(f"line {number} of '{path}' is no answer ({_line(error)}); delete the file") from error
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(raw) - len(rest))
    return answers


def _append_log(path: Path, found: dict[bytes, float]) -> None:
    """Add answers in one write, so that a killed process leaves at most its last line unfinished."""
    lines = "".join(json.dumps({"image": key.hex(), "fake": p}) + "\n" for key, p in found.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(lines.encode())
    except OSError as error:
        raise RunError(f"the log '{path}' cannot be written ({_line(error)}); name another file") from error


def _said(reason: Exception | None) -> str:
    """Why there was no answer; a busy service has said so itself."""
    return str(reason) if isinstance(reason, _Busy) else _line(reason)


def _line(error: BaseException | None) -> str:
    """Return an error's kind and its message's first line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
