"""External weights: from timm's hub if it can be reached, or from a file. Loading never unpickles code."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import threading
import warnings
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError, first_line
from robustbench_df.models.detector import Detector
from robustbench_df.models.frontend import CHANNELS

State = dict[str, Tensor]

HUB = "https://huggingface.co"
PATIENCE = {"auto": 0.8, "required": 10.0}
"""Seconds that each policy waits for the hub to answer before continuing without it or giving up."""


@functools.cache
def hub_reachable(patience: float) -> bool:
    """Whether timm's weight hub accepts a connection within ``patience`` seconds (asked once per process)."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):  # invalid or unreachable host or port
            socket.create_connection(_first_hop(), timeout=patience).close()
            answered.set()

    # Name resolution has no timeout of its own, so it runs in a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answered.is_set()


def _first_hop() -> tuple[str, int]:
    """Return host and port that huggingface_hub connects to: those of the hub, a mirror or, if configured, a proxy."""
    url = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)


def _cached(timm_name: str) -> bool:
    """Whether timm's weights are already on this disk."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(timm_name)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        return False
    return any(
        isinstance(try_to_load_from_cache(repository, f), str) for f in ("model.safetensors", "pytorch_model.bin")
    )


def head_modules(net: nn.Module) -> tuple[nn.Module, ...]:
    """Return the classifier modules of ``net``; an empty tuple if it has no ``get_classifier`` method.

    All networks of timm and of this package have that method; it returns one module or several.
    """
    tell = getattr(net, "get_classifier", None)
    found = tell() if tell is not None else ()
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def head_names(net: nn.Module) -> tuple[str, ...]:
    """Return the name prefixes of the classifier's tensors in ``net``; empty if unknown (`head_modules`)."""
    heads = head_modules(net)
    return tuple(f"{name}." for name, module in net.named_modules() if any(module is head for head in heads))


def pretrained_scaling(timm_name: str | None) -> dict[str, tuple[float, ...]]:
    """Return the channel ``mean`` and ``std`` that timm's weights for ``timm_name`` expect; empty if unknown."""
    if timm_name is None:
        return {}
    import timm

    config = timm.get_pretrained_cfg(timm_name)
    return {"mean": config.mean, "std": config.std} if config is not None else {}


def _fetched(timm_name: str) -> nn.Module:
    """Return timm's network with pretrained weights and a fresh two-logit classifier; timm's errors pass through."""
    import timm

    model: nn.Module = timm.create_model(timm_name, pretrained=True, num_classes=2)
    return model


def pretrained_state(timm_name: str | None, policy: str, model: str) -> State | None:
    """Return timm's pretrained weights for ``timm_name`` without the classifier, or None to train from scratch.

    ``policy``: ``never`` returns None without any request. ``auto`` takes the weights from a hub that answers at once,
    or from this disk; otherwise it warns once and returns None. ``required`` waits longer (`PATIENCE`), lets
    huggingface_hub try as often as it likes, and raises if that fails. ``model`` is named in errors.

    Raises:
        ModelError: ``policy`` is ``required`` and the weights are not available.
    """
    if policy == "never":
        return None
    if timm_name is None:
        if policy == "required":
            raise ModelError(f"{model} has no pretrained weights; use --pretrained auto or never")
        return None
    try:
        # huggingface_hub would retry an unreachable hub for most of a minute.
        if not _cached(timm_name) and not hub_reachable(PATIENCE[policy]):
            raise OSError(f"{_first_hop()[0]} cannot be reached and the weights are not on this disk")
        net = _fetched(timm_name)
    except Exception as error:  # timm, huggingface_hub, its HTTP client and safetensors each raise their own
        reason = first_line(error).rstrip(".")
        if policy == "required":
            raise ModelError(
                f"no pretrained weights for {timm_name}: {reason}; connect, or use --pretrained never"
            ) from error
        warnings.warn(
            f"no pretrained weights ({reason}); training from scratch",
            stacklevel=2,
        )
        return None
    fresh = head_names(net)  # timm's freshly initialised classifier is dropped
    return {f"net.{key}": value for key, value in net.state_dict().items() if not key.startswith(fresh)}


def read_weights(path: Path) -> State:
    """Read tensors from a ``.safetensors`` file, or weights only from ``.pth``, ``.pt`` or ``.bin``.

    Raises:
        ModelError: the file is missing, unreadable or of another format, or holds more than tensors.
    """
    if not path.is_file():
        raise ModelError(f"no weight file '{path}'")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ModelError(f"'{path}' is not a safetensors file: {first_line(error)}") from error
    if path.suffix not in {".pth", ".pt", ".bin"}:
        raise ModelError(f"'{path}': weights are read from .safetensors, .pth, .pt or .bin")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # on damaged bytes torch raises many types, and may advise to run the code in the file
        raise ModelError(
            f"'{path}' does not load as weights only (code in it is never run): it is damaged, no file of torch.save, "
            "or holds more than tensors; save a state_dict, or use .safetensors"
        ) from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(raw, dict) and isinstance(raw.get(wrapper), dict):
            raw = raw[wrapper]
    if not isinstance(raw, dict) or not all(isinstance(v, Tensor) for v in raw.values()):
        raise ModelError(f"'{path}' does not hold a dictionary of tensors")
    return {str(k): v for k, v in raw.items()}


def load_weights(detector: Detector, state: State, where: str, model: str) -> None:
    """Load weights into ``detector``; a classifier that is missing or has another size keeps its initial weights.

    Every other tensor must be present with the detector's shape, with two exceptions: position embeddings of a square
    image are resized, and a first convolution over RGB gets zero weights for the residual channels. ``module.`` and
    ``net.`` prefixes are removed from names. ``where`` and ``model`` are named in errors.

    Raises:
        ModelError: tensors are missing or have another shape; the first one is named.
    """
    own, found = detector.state_dict(), _fitted(detector, state)
    if body := _misfits(detector, found):
        seen = tuple(found[body[0]].shape) if body[0] in found else "missing"
        raise ModelError(
            f"{where} do not fit {model}: {len(body)} tensors differ, first {body[0]} "
            f"(needs {tuple(own[body[0]].shape)}, found {seen}); check the model name and --stem"
        )
    own.update({k: v for k, v in found.items() if k in own and v.shape == own[k].shape})
    detector.load_state_dict(own)


def fits(detector: Detector, state: State) -> bool:
    """Whether `load_weights` would accept ``state``; the detector may be on the meta device."""
    return not _misfits(detector, _fitted(detector, state))


def classes_of(detector: Detector, state: State) -> int:
    """Return how many classes the classifier in ``state`` tells apart, 0 if the detector's own has no such tensor.

    The tensors compared are those in which the detector has its two classes; it may be on the meta device.
    """
    heads, found = tuple(f"net.{name}" for name in head_names(detector.net)), _fitted(detector, state)
    own = [k for k, v in detector.state_dict().items() if k.startswith(heads) and v.ndim and len(v) == 2]
    return max((len(found[k]) for k in own if k in found and found[k].ndim), default=0)


def _misfits(detector: Detector, found: State) -> list[str]:
    """Name the tensors of ``detector``, except its classifier's, that ``found`` lacks or has in another shape."""
    free = ("mean", "std", *(f"net.{name}" for name in head_names(detector.net)))
    own = detector.state_dict().items()
    return [k for k, v in own if not k.startswith(free) and (k not in found or found[k].shape != v.shape)]


def _fitted(detector: Detector, state: State) -> State:
    """Return ``state`` with the detector's names; resizable tensors are converted to the detector's sizes."""
    own = detector.state_dict()
    found = {}
    for key, value in state.items():
        bare = key.removeprefix("module.").removeprefix("net.")
        name = f"net.{bare}" if f"net.{bare}" in own else bare
        found[name] = _widened(value, own[name]) if name in own else value
    if (places := "net.pos_embed") in found and places in own:
        found[places] = _resampled(found[places], own[places], int(getattr(detector.net, "num_prefix_tokens", 0)))
    return found


def _resampled(value: Tensor, own: Tensor, prefix: int) -> Tensor:
    """Resample position embeddings ``[1, prefix + side², D]`` to the grid of ``own``, as timm does; keep others."""
    before, after = (math.isqrt(max(t.shape[1] - prefix, 0)) if t.ndim == 3 else 0 for t in (value, own))
    square = all(side and t.shape[1] == prefix + side**2 for t, side in ((value, before), (own, after)))
    if not square or before == after:
        return value
    from timm.layers.pos_embed import resample_abs_pos_embed

    resampled: Tensor = resample_abs_pos_embed(value, [after, after], num_prefix_tokens=prefix)
    return resampled


def _widened(value: Tensor, own: Tensor) -> Tensor:
    """Add the residual channels of ``own`` to a first convolution over RGB, with zero weights: same output."""
    if value.ndim != 4 or own.ndim != 4 or value.shape[1] != 3 or own.shape[1] != 3 + CHANNELS:
        return value
    return torch.cat([value, value.new_zeros(len(value), CHANNELS, *value.shape[2:])], dim=1)
