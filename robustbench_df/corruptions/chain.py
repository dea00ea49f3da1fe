"""Chains: what a picture went through, step by step, written as ``resize:0.7|jpeg:75``.

Steps and their values:

    jpeg:Q  webp:Q          quality 1 to 100
    resize:S[:kernel]       scale .05 to 4; nearest, bilinear (unless given) or bicubic
    crop:S                  share of each side kept, .1 to 1, at a place keyed by the image
    blur:SIGMA              Gaussian, pixels, up to 20
    noise:SIGMA             Gaussian, in units of [0, 1], up to 1
    gamma:G                 x ** G, .1 to 10
    posterise:N             values per channel, 2 to 256
    sharpen:A               unsharp mask of one pixel, amount up to 10
    grey                    no value
    NAME:SEVERITY           any registered corruption, 1 to 5

Built-in steps take precedence over registered corruptions: ``posterise:4`` means four values per channel. After
``resize`` and ``crop`` the next steps see the smaller or larger picture, so ``resize:0.7|jpeg:75`` is a JPEG of the
small one. At the end, the chain resizes the image to its original size (bilinear).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_df.corruptions import pixels
from robustbench_df.corruptions.blur import gaussian
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.codecs import QUALITIES, jpeg, webp
from robustbench_df.corruptions.core import SEVERITIES, Draw, image_keys
from robustbench_df.corruptions.suite import constant_set
from robustbench_df.errors import UsageError, nearest


@dataclass(frozen=True)
class Step:
    """One step: ``name``, its ``value`` (None for grey) and, for a resize, the ``kernel``."""

    name: str
    value: float | None = None
    kernel: str = ""

    @property
    def text(self) -> str:
        """The step in its shortest form: defaults are left out, 0.70 is written as 0.7."""
        default = self.name == "resize" and self.kernel == _KERNEL
        parts = (self.name, "" if self.value is None else f"{self.value:.10g}", "" if default else self.kernel)
        return ":".join(part for part in parts if part)


@dataclass(frozen=True)
class Chain:
    """Steps in the order in which they happen. Equal chains have equal ``text`` and ``name``, however written."""

    steps: tuple[Step, ...]

    @property
    def text(self) -> str:
        """The chain in its shortest form, as `parse_chain` reads it."""
        return "|".join(step.text for step in self.steps)

    @property
    def name(self) -> str:
        """A name for files, cells and tables: letters, digits and ``. - + _`` only."""
        return self.text.replace(":", "-").replace("|", "+")


@dataclass(frozen=True)
class _Kind:
    """A built-in step: the range of its values, whether they are integers (``whole``), and what it does."""

    low: float
    high: float
    whole: bool
    apply: Callable[[Tensor, float, Draw], Tensor]


_KERNEL = "bilinear"

_KINDS: dict[str, _Kind] = {
    "jpeg": _Kind(*QUALITIES, True, lambda x, q, _: jpeg(x, int(q))),
    "webp": _Kind(*QUALITIES, True, lambda x, q, _: webp(x, int(q))),
    "crop": _Kind(0.1, 1, False, lambda x, share, draw: pixels.crop(x, share, draw.uniform((2,), "crop"))),
    "blur": _Kind(0.1, 20, False, lambda x, sigma, _: gaussian(x, sigma)),
    "noise": _Kind(0.001, 1, False, lambda x, sigma, draw: x + sigma * draw.normal(tuple(x.shape[1:]))),
    "gamma": _Kind(0.1, 10, False, lambda x, exponent, _: pixels.gamma(x, exponent)),
    "posterise": _Kind(2, 256, True, lambda x, levels, _: pixels.posterise(x, int(levels))),
    "sharpen": _Kind(0.01, 10, False, lambda x, amount, _: pixels.sharpen(x, amount)),
}
_SCALE = (0.05, 4.0)
_NAMES = (*_KINDS, "resize", "grey")


def parse_chain(text: str) -> Chain:
    """Read a chain such as ``resize:0.7|jpeg:75`` (grammar: see the module docstring); blanks around parts are ignored.

    Raises:
        UsageError: an empty chain or step, an unknown step (the nearest name is given), a missing, surplus, malformed
            or out-of-range value.
    """
    text = " ".join(text.split())  # a message stays on one line
    return Chain(tuple(_parse_step(part.strip(), text) for part in text.split("|")))


def apply_chain(
    x: Tensor,
    chain: Chain,
    ids: Tensor | None = None,
    seed: int = 0,
    constants: str = "auto",
) -> Tensor:
    """Return ``x`` after all steps, in its own size and type, clipped to [0, 1] after each.

    A registered corruption gets the same noise as in `corrupt`; a repeated step gets fresh noise.

    Args:
        x: uint8 ``[N, 3, H, W]``, or float in [0, 1]. uint8 is rounded at the end only.
        chain: from `parse_chain`.
        ids: int64 ``[N]``, a stable number per image that keys its noise; None uses the position in the batch.
        seed: key of all randomness.
        constants: for registered corruptions: ``cifar``, ``imagenet``, or ``auto``, which chooses by the shorter side
            of ``x``.

    Raises:
        UsageError: unknown constant set; images of another shape or type; ``ids`` that are not one integer per image.
    """
    chosen, keys = constant_set(constants, x), image_keys(x, ids)
    if not x.numel():
        return x.clone()
    out = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    seen: Counter[Step] = Counter()
    for step in chain.steps:
        out = _apply_step(out, step, keys, int(seed), seen[step], chosen).clamp(0, 1)
        seen[step] += 1
    out = pixels.resize(out, (x.shape[2], x.shape[3]))
    return (out * 255).round().to(torch.uint8) if x.dtype == torch.uint8 else out.to(x.dtype)


def _apply_step(x: Tensor, step: Step, ids: Tensor, seed: int, times: int, constants: str) -> Tensor:
    """Apply one step; ``times`` counts how often the same step occurred before in this chain."""
    again = (times,) if times else ()
    if step.value is None:
        return pixels.grey(x)
    if step.name == "resize":
        return pixels.resize(x, pixels.scaled(x, step.value), step.kernel)
    if step.name in _KINDS:
        return _KINDS[step.name].apply(x, step.value, Draw(ids, (seed, "chain", step.text, *again)))
    corruption, severity = CORRUPTIONS[step.name], int(step.value)
    setting = corruption.settings[constants][severity - 1]
    return corruption.apply(x, setting, Draw(ids, (seed, step.name, severity, *again)))


def _parse_step(part: str, chain: str) -> Step:
    name, *values = (word.strip() for word in part.split(":"))
    if not name:
        raise UsageError(f"chain '{chain}' has an empty step; write it as resize:0.7|jpeg:75")
    if name not in _NAMES and name not in CORRUPTIONS:
        raise UsageError(
            f"unknown step '{name}' in chain '{chain}'{nearest(name, (*_NAMES, *CORRUPTIONS))}; "
            f"choose from {', '.join(sorted(_NAMES))}, or a corruption with its severity"
        )
    if name == "grey":
        if values:
            raise UsageError(f"step '{part}': grey takes no value")
        return Step(name)
    if name == "resize":
        return _parse_resize(part, values)
    if len(values) != 1:
        raise UsageError(f"step '{part}' needs one value, as in {name}:{_example(name)}")
    if name in _KINDS:
        kind = _KINDS[name]
        return Step(name, _number(part, values[0], kind.low, kind.high, kind.whole))
    return Step(name, _number(part, values[0], SEVERITIES[0], SEVERITIES[-1], whole=True))


def _parse_resize(part: str, values: list[str]) -> Step:
    kernel = values[1] if len(values) > 1 else _KERNEL
    if not 1 <= len(values) <= 2:
        raise UsageError(f"step '{part}' needs a scale and perhaps a kernel, as in resize:0.7:bicubic")
    if kernel not in pixels.KERNELS:
        raise UsageError(
            f"step '{part}': unknown kernel '{kernel}'{nearest(kernel, pixels.KERNELS)}; "
            f"choose from {', '.join(pixels.KERNELS)}"
        )
    return Step("resize", _number(part, values[0], *_SCALE, whole=False), kernel)


def _number(part: str, text: str, low: float, high: float, whole: bool) -> float:
    kind = "a whole number" if whole else "a number"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high or (whole and value != int(value)):
        raise UsageError(f"step '{part}': the value must be {kind} from {low:g} to {high:g}, not '{text}'")
    return value


def _example(name: str) -> str:
    return f"{_KINDS[name].high:g}" if name in _KINDS else "3"
