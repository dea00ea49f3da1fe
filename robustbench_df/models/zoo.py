"""``build_detector(ModelConfig, image_size)``: build a registered or timm architecture for images of one size.

``stem="auto"`` uses the small stem (`robustbench_df.models.architectures`) for images up to 64 px, unless the weights
to be loaded need the native stem: those of timm, or of a file that does not fit the small stem. Then the image is
enlarged instead. Where there is no stem to choose, or the config names one, small images are enlarged for timm's
weights and for a file whose classifier has a thousand classes or more. Without a classifier in it, set ``input_size``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError, nearest
from robustbench_df.models.architectures import (
    MODELS,
    OPTIONS,
    SMALL_IMAGE,
    Architecture,
    quiet_classifier,
    timm_network,
)
from robustbench_df.models.detector import Detector
from robustbench_df.models.frontend import Residuals
from robustbench_df.models.pretrained import (
    State,
    classes_of,
    fits,
    head_names,
    load_weights,
    pretrained_scaling,
    pretrained_state,
    read_weights,
)

LARGE_IMAGE, LARGE_SIDE = 256, 224
"""Images larger than the first side are reduced to the second, the resolution that ImageNet networks are made for."""
PRETRAINED_SIDE = 96
"""Small images are enlarged to this side for a pretrained native stem (measured: `experiments/pretrained`)."""

IMAGENET_CLASSES = 1000
"""A weight file whose classifier has as many classes or more is taken to come from large images."""


def architecture(name: str) -> Architecture:
    """Look up a registered name, or any ``timm:NAME``.

    Raises:
        ModelError: the name, or the tag of its weights, is unknown; the message lists the choices and the nearest one.
    """
    if not name.startswith("timm:"):
        return MODELS[name]
    import timm

    bare = name.removeprefix("timm:")
    if not timm.is_model(bare.split(".")[0]):
        close = timm.list_models(f"*{bare}*")[:5] or timm.list_models(f"{bare[:6]}*")[:5]
        raise ModelError(f"timm has no model '{bare}'" + (f"; near: {', '.join(close)}" if close else ""))
    try:
        shape = timm.get_pretrained_cfg(bare)
    except RuntimeError as error:  # timm knows the network, but not the tag of the weights
        network, _, tag = bare.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_models(f"{network}.*", pretrained=True)]
        choices = f"choose from {', '.join(tags)}" if tags else f"use timm:{network}"
        raise ModelError(f"timm's {network} has no weights '{tag}'{nearest(tag, tags)}; {choices}") from error
    fixed = shape.input_size[-1] if shape is not None and shape.fixed_input_size else None
    return Architecture(
        f"timm's {bare}",
        lambda config, *_: quiet_classifier(timm_network(bare, config)),
        timm_name=bare,
        fixed_side=fixed,
        options=("dropout",),
    )


def unused_options(config: ModelConfig) -> list[str]:
    """Name the settings that were changed but that this architecture does not use."""
    arch, usual = architecture(config.name), ModelConfig()
    unused = [option for option in OPTIONS if option not in arch.options]
    changed = [option for option in unused if getattr(config, option) != getattr(usual, option)]
    return changed + (["stem"] if config.stem == "small" and not arch.small_stem else [])


def build_detector(config: ModelConfig, image_size: tuple[int, int]) -> tuple[Detector, ModelConfig]:
    """Build one detector for images of ``image_size`` (height, width in pixels).

    Returns the detector in train mode, and the config with every ``auto`` resolved. A checkpoint stores the resolved
    config: building from it needs no internet access and gives the same architecture.

    Raises:
        ModelError: the name is unknown, the weights do not fit, or required pretrained weights are not available.
    """
    arch, shortest = architecture(config.name), min(image_size)
    if config.weights is None:
        state, where = pretrained_state(arch.timm_name, config.pretrained, config.name), "pretrained weights"
    else:
        state, where = read_weights(Path(config.weights)), f"'{config.weights}'"
    stem = _stem(config, arch, shortest, state)
    resolved = _resolved(config, arch, shortest, stem, stem == "native" and _enlarged(config, arch, shortest, state))
    # Foreign weights expect their own channel statistics; a file of this package contains them.
    elsewhere = state is not None and resolved.stem == "native"
    detector = _assembled(arch, resolved, shortest, **pretrained_scaling(arch.timm_name) if elsewhere else {})
    if state is not None:
        load_weights(detector, state, where, config.name)
    return detector, resolved


def _stem(config: ModelConfig, arch: Architecture, shortest: int, state: State | None) -> Literal["small", "native"]:
    """Choose the stem from the images' shorter side ``shortest`` and the weights to be loaded, if any."""
    if not arch.small_stem:
        return "native"  # there is no stem to choose
    if config.stem != "auto":
        return config.stem
    if shortest > SMALL_IMAGE or (state is not None and config.weights is None):
        return "native"
    if state is None:
        return "small"
    return "small" if fits(_shapes(config, arch, shortest, "small"), state) else "native"


def _enlarged(config: ModelConfig, arch: Architecture, shortest: int, state: State | None) -> bool:
    """Whether small images are enlarged for a native stem, because the weights to be loaded come from large ones."""
    if state is None:
        return False
    if config.weights is None or (arch.small_stem and config.stem == "auto"):
        return True
    # Where there is no small stem, or the config names one, a file may as well come from training on small images.
    return classes_of(_shapes(config, arch, shortest, "native"), state) >= IMAGENET_CLASSES


def _shapes(config: ModelConfig, arch: Architecture, shortest: int, stem: Literal["small", "native"]) -> Detector:
    """Return the detector on torch's meta device: names and shapes of its tensors, without values."""
    with torch.device("meta"):
        return _assembled(arch, _resolved(config, arch, shortest, stem, enlarged=False), shortest)


def _resolved(
    config: ModelConfig, arch: Architecture, shortest: int, stem: Literal["small", "native"], enlarged: bool
) -> ModelConfig:
    """Return ``config`` with every setting decided, given the stem and whether small images are enlarged."""
    return config.model_copy(
        update={
            "stem": stem,
            "input_size": _input_size(config, arch, shortest, enlarged),
            "pretrained": "never",
            "weights": None,
            "frontend": "rgb" if arch.pixels else config.frontend,
        }
    )


def _input_size(config: ModelConfig, arch: Architecture, shortest: int, enlarged: bool) -> int | None:
    """Return the side to which images are resized; None: no resizing.

    ``enlarged``: small images are enlarged, because the weights come from large ones.
    """
    if config.input_size or arch.fixed_side:
        return config.input_size or arch.fixed_side
    if enlarged and shortest <= SMALL_IMAGE:
        return PRETRAINED_SIDE
    if shortest > (arch.largest_side or LARGE_IMAGE):
        return arch.largest_side or LARGE_SIDE
    return shortest if arch.fixed_grid else None


def pixels_seen(config: ModelConfig, image_size: tuple[int, int]) -> int:
    """Return how many pixels of an image the network of ``config`` processes, without building it.

    An upper bound where the weights come from a file, which is not read: that of an enlarged image.
    """
    arch = architecture(config.name)
    side = _input_size(config, arch, min(image_size), config.pretrained == "required" or config.weights is not None)
    return side**2 if side else image_size[0] * image_size[1]


def _assembled(arch: Architecture, resolved: ModelConfig, shortest: int, **scaling: Any) -> Detector:
    """Build the untrained detector that a resolved config describes."""
    net = arch.build(resolved, resolved.stem == "small", resolved.input_size or shortest)
    residuals = Residuals() if resolved.frontend == "residual" else None
    if arch.pixels:
        scaling = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return Detector(net, input_size=resolved.input_size, residuals=residuals, **scaling)


def head_parameters(detector: Detector) -> list[nn.Parameter]:
    """Return the parameters of the classifier, which stay trainable with a frozen backbone.

    Raises:
        ModelError: the network does not say which part is its classifier (`head_modules`).
    """
    heads = head_names(detector.net)
    head = [p for name, p in detector.net.named_parameters() if name.startswith(heads)]
    if not head:
        raise ModelError("cannot tell this model's head from its backbone; use freeze_backbone=false")
    return head
