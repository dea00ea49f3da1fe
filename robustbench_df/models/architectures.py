"""The registry of architectures: what each name means, and how its bare network over normalised pixels is built.

Stems: ImageNet networks first reduce the image to 1/4 of its side and end at 1/32, so a 32 px image shrinks to a single
position before the last stage. ``stem="small"`` removes the early reductions (He et al. 2016, section 4.2, do the same
for CIFAR); `experiments/stem` holds the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError, first_line
from robustbench_df.models.frontend import CHANNELS
from robustbench_df.models.pretrained import head_modules
from robustbench_df.models.resnet_se import ResNetSE
from robustbench_df.models.statistics import StatisticsNet
from robustbench_df.models.vgg import SMALLEST, VGG6
from robustbench_df.registry import Registry

SMALL_IMAGE = 64
"""Images up to this side take the small stem (CIFAR, Tiny-ImageNet)."""

CLASSIFIER_STD = 0.01
"""Weight deviation of a freshly initialised classifier: logits are near zero, so the loss starts near log 2."""

Build = Callable[[ModelConfig, bool, int], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """How one registered model is built.

    Attributes:
        summary: the line in ``rdf list models``.
        build: ``build(config, small, side)`` returns the bare network over normalised pixels.
        timm_name: the timm architecture whose pretrained weights fit, if any.
        fixed_side: the only image side that the network takes, if any.
        largest_side: larger images are reduced to this side; None: the zoo's `LARGE_IMAGE` and `LARGE_SIDE` apply.
        small_stem: whether it has a small stem.
        fixed_grid: whether the shapes of its weights depend on the image side.
        pixels: whether it takes unnormalised pixels in [0, 1], without additional channels.
        options: those of `OPTIONS` that affect it.
    """

    summary: str
    build: Build
    timm_name: str | None = None
    fixed_side: int | None = None
    largest_side: int | None = None
    small_stem: bool = False
    fixed_grid: bool = False
    pixels: bool = False
    options: tuple[str, ...] = ()


OPTIONS = ("head", "dropout", "drop_path")
"""Model settings that only some architectures use."""


MODELS: Registry[Architecture] = Registry("model", ModelError)


MLP_SIDE = 32
"""Side to which larger images are reduced for the MLP. At 224 px and with the residual channels, its first layer would
have 460 M parameters."""


class MLP(nn.Module):
    """Two hidden layers over the flattened image: the baseline that any convolutional detector must beat."""

    def __init__(self, side: int, in_channels: int = 3, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * side * side, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(hidden, hidden // 4),
            nn.ReLU(inplace=True),
            nn.Linear(hidden // 4, 2),
        )

    def forward(self, x: Any) -> Any:
        """Map ``[N, in_channels, side, side]`` to ``[N, 2]``."""
        return self.layers(x)

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, which is trained with a frozen backbone; same method as in timm's networks."""
        return self.layers[-1]


def channels(config: ModelConfig) -> int:
    """Return the number of input channels of the network."""
    return 3 + (CHANNELS if config.frontend == "residual" else 0)


def timm_network(name: str, config: ModelConfig, **kwargs: Any) -> nn.Module:
    """Build the timm network ``name`` with random weights and two logits; ``kwargs`` are passed to timm.

    Raises:
        ModelError: timm cannot build it with these settings.
    """
    import timm

    settings = {"drop_rate": config.dropout, "in_chans": channels(config), "num_classes": 2, **kwargs}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **settings)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ModelError(f"timm cannot build '{name}': {first_line(error)}") from error
    return model


def quiet_classifier(net: nn.Module) -> nn.Module:
    """Redraw a timm network's classifier, if it is linear, with weights of `CLASSIFIER_STD`; return the network.

    timm scales that of an EfficientNet or a MobileNet by its number of outputs: with two, initial logits are about ±10,
    and training needs epochs to undo that.
    """
    for classifier in head_modules(net):
        if isinstance(classifier, nn.Linear):
            nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
            if classifier.bias is not None:
                nn.init.zeros_(classifier.bias)
    return net


def _efficientnet(name: str) -> Build:
    def build(config: ModelConfig, small: bool, _side: int) -> nn.Module:
        network = timm_network(name, config, drop_path_rate=config.drop_path)
        net: Any = quiet_classifier(network)
        if small:
            net.conv_stem.stride = (1, 1)
        return network

    return build


def _convnext(name: str) -> Build:
    def build(config: ModelConfig, small: bool, _side: int) -> nn.Module:
        network = timm_network(name, config, drop_path_rate=config.drop_path)
        net: Any = network
        if small:
            net.stem[0] = early_convolutions(channels(config), net.stem[0].out_channels)
        return network

    return build


def early_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two overlapping 3×3 convolutions, total stride 2, instead of patches (Xiao et al. 2021, arXiv:2106.14881).

    Trained from scratch on 32 px images, they raised accuracy by over ten points (`experiments/stem`). timm's own
    ``patch_size=2`` would add a stride in the first stage, so nothing would be gained.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs // 2, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs // 2),
        nn.GELU(),
        nn.Conv2d(outputs // 2, outputs, 3, 2, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def recipe_head(features: int) -> nn.Sequential:
    """Return the head of the recipe's ResNet-18: 512→128→ReLU→Dropout 0.3→2 classes."""
    return nn.Sequential(nn.Linear(features, 128), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(128, 2))


def _resnet(name: str) -> Build:
    def build(config: ModelConfig, small: bool, _side: int) -> nn.Module:
        network = timm_network(name, config, drop_path_rate=config.drop_path)
        net: Any = network
        if small:
            net.conv1 = nn.Conv2d(channels(config), 64, 3, 1, 1, bias=False)
            net.maxpool = nn.Identity()
        if config.head == "recipe":
            net.fc = recipe_head(net.num_features)
        return network

    return build


def _resnet_se(width: int) -> Build:
    # For small images ResNet-SE always has the small stem, whatever ``stem`` says.
    return lambda config, small, side: ResNetSE(
        width, in_channels=channels(config), small_stem=small or side <= SMALL_IMAGE
    )


def _densenet(config: ModelConfig, small: bool, _side: int) -> nn.Module:
    network = timm_network("densenet121", config)
    net: Any = network
    if small:
        net.features.conv0 = nn.Conv2d(channels(config), 64, 3, 1, 1, bias=False)
        net.features.pool0 = nn.Identity()
    return network


def _vit(config: ModelConfig, small: bool, side: int) -> nn.Module:
    patch = 4 if small else 16
    usable = math.ceil(side / patch) * patch
    if usable != side:
        raise ModelError(
            f"vit_base_patch16_224 needs a side divisible by {patch}, not {side}; set model.input_size={usable}"
        )
    return timm_network(
        "vit_base_patch16_224",
        config,
        img_size=side,
        patch_size=patch,
        drop_path_rate=config.drop_path,
    )


def _vgg6(config: ModelConfig, _small: bool, side: int) -> nn.Module:
    _require_side("vgg6", side)
    return VGG6(in_channels=channels(config))


def _statistics(_config: ModelConfig, _small: bool, side: int) -> nn.Module:
    _require_side("image_statistics", side)  # the size of one JPEG block
    return StatisticsNet()


def _require_side(name: str, side: int) -> None:
    if side < SMALLEST:
        raise ModelError(f"{name} needs images of at least {SMALLEST} px, not {side}; set model.input_size={SMALLEST}")


def _entry(
    summary: str, build: Build, timm_name: str, options: tuple[str, ...] = ("dropout", "drop_path")
) -> Architecture:
    return Architecture(summary, build, timm_name, small_stem=True, options=options)


_TABLE = {
    "convnext_tiny": _entry(
        "ConvNeXt-Tiny (Liu et al. 2022), 27.8 M parameters", _convnext("convnext_tiny"), "convnext_tiny"
    ),
    "efficientnet_b0": _entry(
        "EfficientNet-B0 (Tan & Le 2019), 4.0 M parameters",
        _efficientnet("efficientnet_b0"),
        "efficientnet_b0",
    ),
    "resnet_se": Architecture(
        "ResNet with squeeze-and-excitation, made for small images, 11.2 M parameters", _resnet_se(64), small_stem=True
    ),
    "resnet_se_small": Architecture("the same shape at width 24, 1.6 M parameters", _resnet_se(24), small_stem=True),
    "vgg6": Architecture("six 3×3 convolutions with max pooling, for small images, 0.6 M parameters", _vgg6),
    "convnext_base": _entry(
        "ConvNeXt-Base (Liu et al. 2022), 87.6 M parameters", _convnext("convnext_base"), "convnext_base"
    ),
    "efficientnet_b2": _entry(
        "EfficientNet-B2 (Tan & Le 2019), 7.7 M parameters",
        _efficientnet("efficientnet_b2"),
        "efficientnet_b2",
    ),
    "efficientnet_b3": _entry(
        "EfficientNet-B3 (Tan & Le 2019), 10.7 M parameters",
        _efficientnet("efficientnet_b3"),
        "efficientnet_b3",
    ),
    "efficientnet_b4": _entry(
        "EfficientNet-B4 (Tan & Le 2019), 17.6 M parameters",
        _efficientnet("efficientnet_b4"),
        "efficientnet_b4",
    ),
    "resnet18": _entry(
        "ResNet-18 (He et al. 2016), 11.2 M parameters; model.head=recipe adds 512→128→2",
        _resnet("resnet18"),
        "resnet18",
        OPTIONS,
    ),
    "resnet50": _entry("ResNet-50 (He et al. 2016), 23.5 M parameters", _resnet("resnet50"), "resnet50", OPTIONS),
    "vit_base_patch16_224": Architecture(
        "ViT-B/16 (Dosovitskiy et al. 2021), 85.8 M parameters; patch 4 with the small stem",
        _vit,
        "vit_base_patch16_224",
        small_stem=True,
        fixed_grid=True,
        options=("dropout", "drop_path"),
    ),
    "densenet121": _entry("DenseNet-121 (Huang et al. 2017), 7.0 M parameters", _densenet, "densenet121", ("dropout",)),
    "inception_resnet_v2": Architecture(
        "Inception-ResNet-v2 (Szegedy et al. 2017), 54.3 M parameters; images are enlarged to 139 px",
        lambda config, *_: timm_network("inception_resnet_v2", config),
        "inception_resnet_v2",
        fixed_side=139,
        options=("dropout",),
    ),
    "image_statistics": Architecture(
        "2,986 statistics of JPEG blocks, scene and texture under Gaussian kernels; learnt is a linear classifier",
        _statistics,
        pixels=True,
    ),
    "mlp": Architecture(
        f"two hidden layers on the pixels, of {MLP_SIDE} px at most: the baseline to beat",
        lambda config, _small, side: MLP(side, channels(config)),
        fixed_grid=True,
        largest_side=MLP_SIDE,
    ),
}
for _name, _architecture in _TABLE.items():
    MODELS.register(_name)(_architecture)
