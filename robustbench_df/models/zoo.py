"""``build_detector(ModelConfig, image_size)``: a name of the registry, or any of timm's, made for images of one size.

``stem="auto"`` takes the small stem (`robustbench_df.models.architectures`) up to 64 px, unless pretrained weights are
loaded, which need their own stem: then the image is enlarged instead.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models.architectures import MODELS, Architecture, timm_network
from robustbench_df.models.detector import Detector
from robustbench_df.models.frontend import Residuals
from robustbench_df.models.pretrained import HEADS, load_weights, pretrained_state

SMALL_IMAGE = 64
"""Images up to this side take the small stem (CIFAR, Tiny-ImageNet)."""
LARGE_IMAGE, LARGE_SIDE = 256, 224
"""Images beyond the first side are reduced to the second, the resolution ImageNet networks are made for."""
PRETRAINED_SIDE = 128
"""Small images are enlarged to this side for a pretrained native stem: the last map is then 4×4."""


def architecture(name: str) -> Architecture:
    """Look up a registered name, or any ``timm:NAME``.

    Raises:
        ModelError: the name is unknown; the message lists the choices and the nearest one.
    """
    if not name.startswith("timm:"):
        return MODELS[name]
    import timm

    bare = name.removeprefix("timm:")
    if not timm.is_model(bare.split(".")[0]):
        close = timm.list_models(f"*{bare}*")[:5] or timm.list_models(f"{bare[:6]}*")[:5]
        raise ModelError(f"timm has no model '{bare}'" + (f"; near: {', '.join(close)}" if close else ""))
    shape = timm.get_pretrained_cfg(bare)
    fixed = shape.input_size[-1] if shape is not None and shape.fixed_input_size else None
    return Architecture(
        f"timm's {bare}",
        lambda config, *_: timm_network(bare, config),
        timm_name=bare,
        fixed_side=fixed,
    )


def build_detector(config: ModelConfig, image_size: tuple[int, int]) -> tuple[Detector, ModelConfig]:
    """Build one detector for images of ``image_size`` (height, width in pixels).

    Returns the detector in train mode and the config with every ``auto`` resolved, which is what a checkpoint keeps:
    building from the resolved config needs no network and gives the same architecture.

    Raises:
        ModelError: unknown name, weights that do not fit, required pretrained weights that cannot be had.
    """
    arch = architecture(config.name)
    state = pretrained_state(arch.timm_name, config.pretrained) if config.weights is None else None
    pretrained = state is not None
    shortest = min(image_size)
    stem = config.stem
    if stem == "auto":
        stem = "small" if arch.small_stem and shortest <= SMALL_IMAGE and not pretrained else "native"
    if stem == "small" and not arch.small_stem:
        stem = "native"  # nothing to change: the network keeps small images as it is
    input_size = config.input_size or arch.fixed_side
    if input_size is None and pretrained and stem == "native" and shortest <= SMALL_IMAGE:
        input_size = PRETRAINED_SIDE
    if input_size is None and shortest > LARGE_IMAGE:
        input_size = LARGE_SIDE
    if input_size is None and arch.fixed_grid:
        input_size = shortest
    resolved = config.model_copy(
        update={
            "stem": stem,
            "input_size": input_size,
            "pretrained": "never",
            "weights": None,
            "frontend": "rgb" if arch.pixels else config.frontend,
        }
    )
    net = arch.build(resolved, stem == "small", input_size or shortest)
    residuals = Residuals() if resolved.frontend == "residual" else None
    scaling: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3} if arch.pixels else {}
    detector = Detector(net, input_size=input_size, residuals=residuals, **scaling)
    if state is not None:
        load_weights(detector, state, config.name, from_pretrained=True)
    elif config.weights is not None:
        load_weights(detector, config.weights, config.name)
    return detector, resolved


def head_parameters(detector: Detector) -> list[nn.Parameter]:
    """Return the parameters of the classifier, which stay trainable under a frozen backbone.

    Raises:
        ModelError: this architecture keeps its classifier elsewhere.
    """
    head = [p for name, p in detector.named_parameters() if name.startswith(HEADS)]
    if not head:
        raise ModelError("cannot tell this model's head from its backbone; use freeze_backbone=false")
    return head
