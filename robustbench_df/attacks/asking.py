"""Query an external detector: a Python function or a web service (see `robustbench_df.attacks.external`)."""

from __future__ import annotations

import base64
import http.client
import importlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from torch import Tensor

from robustbench_df.errors import ModelError, UsageError, kind_and_line

Images = npt.NDArray[np.float32]
Ask = Callable[[Images], object]

_TOO_MANY, _SERVER_ERROR = 429, 500
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOLERANCE = 1e-6
"""What float32 rounding may add to a probability."""


class Busy(Exception):  # noqa: N818  (a temporary state of the service, so the request is retried)
    """The service cannot answer now."""


def probabilities(said: object, n: int, name: str) -> list[float]:
    """Return the answer ``said`` as n numbers in [0, 1]; refuse anything else.

    Raises:
        ModelError: ``said`` is not numeric, has another shape than ``(n,)`` or ``(n, 1)``, or has NaN or values outside
            [0, 1]; the message names the shape or value.
    """
    try:
        values = np.asarray(said.detach().double().cpu() if isinstance(said, Tensor) else said, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} answered with something else than numbers ({kind_and_line(error)})") from error
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


def python_function(spec: str) -> Ask:
    """Import the function of ``python:module:function`` and return it with its failures turned into errors."""
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
    except Exception as error:  # importing a user's module can raise anything
        raise ModelError(f"module '{module_name}' fails when imported: {kind_and_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"module '{module_name}' has no function '{function_name}'")

    def ask(images: Images) -> object:
        try:
            return function(images)
        except (ConnectionError, TimeoutError):
            raise  # the function may itself call a service, so another try is worthwhile
        except Exception as error:  # a user's function can raise anything
            raise ModelError(f"{spec} failed on {len(images)} images: {kind_and_line(error)}") from error

    return ask


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def http_service(address: str, timeout: float) -> Ask:
    """Return a function that sends images to ``address`` by POST."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # for example a port that is not a number
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
                raise Busy(status) from error
            raise ModelError(f"{address} refused the images: {status}") from error
        except (OSError, http.client.HTTPException) as error:  # connection refused, reset, cut off or timed out
            raise Busy(kind_and_line(error)) from error
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
