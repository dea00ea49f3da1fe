"""Frozen settings, one class per stage: read from TOML, written as JSON, unknown keys refused with a hint.

Precedence, weakest first: field defaults, preset, ``--config FILE``, ``--set key=value``. A value that the user sets
for all models also overrides the preset's value for a single model (`robustbench_df.layering`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robustbench_df.errors import UsageError, nearest
from robustbench_df.layering import layered
from robustbench_df.settings import Count, Fraction, Positive, Settings, merge, parse_override, validated

FprRule = Annotated[str, Field(pattern=r"^fpr:0?\.\d+$")]

MAIN_MODELS = ("convnext_tiny", "efficientnet_b0", "resnet_se")
PRESETS = ("full", "pretrained", "quick", "robust", "seed")

AUTO_FOLDS, AUTO_FOLDS_UP_TO = 5, 5000


class DataConfig(Settings):
    """Which images to read (`robustbench_df.load_images`)."""

    source: str = "demo"
    layout: str = "auto"
    labels: Literal["folder", "predictions"] = "folder"
    fake_is: Literal[0, 1] | None = None
    size: Annotated[int, Field(ge=8)] | None = None
    max_bad: Fraction = 0.05
    group_by: Literal["folder"] | None = None
    """``folder``: each lowest folder is a group (for example the frames of a video), and no split divides a group."""


class SplitConfig(Settings):
    """Fractions of the labelled images; parts given by the source are kept, the rest is divided in proportion.

    With ``folds`` above 1 no test part is set aside: each image is scored by the detectors not trained on it.
    """

    train: Fraction = 0.7
    val: Fraction = 0.1
    cal: Fraction = 0.1
    test: Fraction = 0.1
    folds: Annotated[int, Field(ge=1, le=20)] | Literal["auto"] = "auto"
    """How often each detector is trained. ``auto``: 5 times for up to 5,000 labelled images, where a held-out part
    would be too small for a reliable evaluation; once for more images."""
    near_copies: bool = True
    """Keep near copies (crops, flips, re-compressed ones …) in one part, as pixel-identical images always are."""
    seed: Count | None = None
    """None: the run's seed."""

    def fold_count(self, labelled: int) -> int:
        """Resolve ``folds`` for a number of labelled images."""
        if self.folds == "auto":
            return AUTO_FOLDS if labelled <= AUTO_FOLDS_UP_TO else 1
        return self.folds

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        total = self.train + self.val + self.cal + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + cal + test must be 1, not {total:g}")
        if self.train == 0 or self.val == 0:
            raise ValueError("train and val must not be empty: checkpoints are chosen on val")
        return self


class ModelConfig(Settings):
    """One detector's architecture (`robustbench_df.models.zoo.build_detector`)."""

    name: str = "resnet_se"
    stem: Literal["auto", "native", "small"] = "auto"
    pretrained: Literal["auto", "never", "required"] = "auto"
    weights: str | None = None
    input_size: Annotated[int, Field(ge=8)] | None = None
    frontend: Literal["rgb", "residual"] = "rgb"
    """``residual`` adds high-pass residual channels to the colours (`robustbench_df.models.frontend`)."""
    head: Literal["native", "recipe"] = "native"
    dropout: Fraction = 0.2
    drop_path: Fraction = 0.1


class AugmentConfig(Settings):
    """Batched augmentation of tensors, for train images only (`robustbench_df.train.augment`)."""

    flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest translation, as a share of the side; edges are reflected."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of size."""
    perspective: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Distortion scale of a random perspective, as in torchvision."""
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    erase: Fraction = 0.0
    """Probability of erasing a rectangle (RandomErasing, Zhong et al. 2020)."""
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Side of a grey square in every image, as a share of the image's side (Cutout, DeVries & Taylor 2017)."""
    trivial: bool = False
    """TrivialAugmentWide (Müller & Hutter 2021), before the other augmentations."""
    corruption: Fraction = 0.0
    """Share of images that get noise or JPEG traces of severity 1 to 5, after all other augmentations
    (`robustbench_df.train.corrupted`). Blur is excluded, so that `rdf corrupt` still tests unseen corruptions."""


class PhaseConfig(Settings):
    """Phase 1: clean training."""

    epochs: Count = 60
    image_budget: Count = 0
    """Limits training time on a CPU: most images processed in the phase, over all folds (0: no limit). The phase has as
    many whole epochs as fit, or a part of one. It is ignored on an accelerator."""
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    batch_size: Annotated[int, Field(ge=2)] = 64
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Images per forward pass; fewer than the batch means gradient accumulation. None: the whole batch if it fits."""
    schedule: Literal["cosine", "onecycle", "plateau", "constant"] = "onecycle"
    """``plateau`` halves the learning rate when val stops improving, so it cannot be combined with ``refit``."""
    warmup: Fraction = 0.25
    """Share of the steps in which the learning rate rises."""
    patience: Count = 0
    """Epochs without a better val score after which the phase ends (0: never)."""
    select: Literal["best", "last"] = "best"
    """Which checkpoint is kept: the best on val, or the last (for refits, which have no val)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Beta parameter (Zhang et al. 2018); 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Beta parameter (Yun et al. 2019); 0 is off. If mixup is on too, each batch uses one of the two at random."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights; if on, the average is evaluated and kept. 0 is off."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 is off."""
    freeze_backbone: bool = False
    copies: Count = 0
    """Number of fixed augmented copies of train images, added to train with the label of their source."""

    @property
    def all_copies(self) -> int:
        """Number of copies added to train."""
        return self.copies

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on each batch."""
        return 1


class AdversarialConfig(PhaseConfig):
    """Phase 2: training on clean and adversarial images together, starting from the checkpoint of phase 1."""

    epochs: Count = 6
    lr: Positive = 1e-4
    objective: Literal["fgsm", "fast", "free", "pgd", "trades"] = "fgsm"
    """How images are attacked (`robustbench_df.train.objectives`). ``fgsm``: the published recipe, which does not make
    detectors robust. ``fast``: one step from a random start. ``free``: reuses the gradient that trains the weights,
    with several steps on each batch. ``pgd``: several steps. ``trades``: several steps away from the clean prediction,
    with its own loss. For all but ``fgsm``, the phase ends early if robustness collapses."""
    attack_steps: Annotated[int, Field(ge=1)] = 5
    """Steps of ``pgd`` and ``trades``."""
    replays: Annotated[int, Field(ge=1)] = 4
    """Steps of ``free`` on each batch. The steps per epoch stay the same, so an epoch sees fewer batches."""
    beta: Annotated[float, Field(ge=0)] = 6.0
    """Weight of robustness relative to accuracy in ``trades`` (6 in Zhang et al. 2019)."""
    ratio: Fraction = 0.3
    """Share of adversarial images: 0.3 is the recipe's 70/30; ``trades`` attacks every image."""
    epsilons: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.02, 0.03, 0.05, 0.08)
    """L∞ budgets in pixels of [0, 1]; one is drawn per image."""
    mix: Literal["sample", "batch"] = "sample"
    """``sample``: the share ``ratio`` of every batch is attacked; ``batch``: that share of the batches, as a whole."""
    separate_norm: bool = False
    """Attacked images use separate batch normalisation layers in training (AdvProp, Xie et al. 2020). The deployed
    detector has the clean layers: its accuracy is preserved, but only the robustness in the other weights remains."""
    adversarial_copies: Count = 0
    """Number of fixed FGSM copies of train images, crafted against phase 1's checkpoint, with the source's label."""
    select_epsilon: Annotated[float, Field(gt=0, le=1)] = 0.05
    """L∞ budget of the attack on val that chooses the checkpoint: FGSM if the objective is ``fgsm``, else PGD."""

    @property
    def all_copies(self) -> int:
        """Number of copies added to train, including attacked ones."""
        return self.copies + self.adversarial_copies

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on each batch."""
        return self.replays if self.objective == "free" else 1

    @model_validator(mode="after")
    def _fits_together(self) -> AdversarialConfig:
        if self.separate_norm and self.objective in ("trades", "free"):
            raise ValueError(f"separate_norm goes with fgsm, fast and pgd, not with {self.objective}")
        if self.separate_norm and (self.ratio == 1 or self.freeze_backbone):
            raise ValueError("separate_norm deploys what clean images train: ratio must be below 1, nothing frozen")
        if (self.mixup or self.cutmix) and (self.separate_norm or self.objective in ("free", "trades")):
            raise ValueError("mixup and cutmix blend each image with another: not with separate_norm, free or trades")
        return self


class SpeedConfig(Settings):
    """How to compute; ``auto`` is resolved by a probe of a few steps (`robustbench_df.train.speed`)."""

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    own_gradients: bool = True
    """On a CPU, `train.convolution` and `train.excitation` compute the gradients that the library is slow at."""
    save_every: Annotated[float, Field(ge=0)] = 20.0
    """Least seconds between two saves of the training state. If the process is killed, work since the last is lost."""


class EnsembleConfig(Settings):
    """How detectors are combined and which combination is shipped; decided on val (or out-of-fold) predictions."""

    weights: Literal["auto", "accuracy", "uniform", "logodds", "stacked"] = "accuracy"
    """``auto`` ships the kind with the lowest cross-fitted log loss; every kind is fitted and reported."""
    phase: Literal["auto", "base", "final"] = "final"
    """Which checkpoints are shipped: before (``base``) or after (``final``) adversarial fine-tuning. ``auto`` takes the
    lower log loss on clean images, since surviving one gradient step says little about attackers who take more."""
    threshold: Literal["accuracy", "youden", "half"] | FprRule = "accuracy"
    """How the threshold is fitted. ``accuracy``: highest accuracy; ``youden``: highest TPR - FPR (Youden 1950);
    ``half``: fixed at 0.5; ``fpr:0.01``: most fakes found at that false positive rate."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Target error rate of the abstention band (`rdf predict --abstain`), per class."""


def file_name(model: str) -> str:
    """Return a detector's name with the characters replaced that a file name must not contain."""
    return model.replace(":", "_").replace("/", "_")


class RunConfig(Settings):
    """Everything that `rdf train-all` needs, as stored in ``config.json``."""

    preset: str = "full"
    models: tuple[str, ...] = MAIN_MODELS
    seed: Count = 0
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    phase1: PhaseConfig = PhaseConfig()
    phase2: AdversarialConfig = AdversarialConfig()
    speed: SpeedConfig = SpeedConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    attack_images: Count = 500
    """Most images of the judged part that `train-all` attacks (FGSM), evenly spaced (0: all). Clean numbers use all."""
    refit: bool = False
    allow_findings: bool = False
    """Train in spite of a failing finding of the audit; the run and everything made from it say so."""
    per_model: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides by model name, for example ``{"resnet_se": {"phase1": {"lr": 3e-4}}}``. A new name adds another member
    with an existing architecture: ``{"twin": {"model": {"name": "resnet_se", "frontend": "rgb"}}}``."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if not self.models:
            raise ValueError("models must name at least one detector")
        if len({file_name(name) for name in self.models}) != len(self.models):
            raise ValueError("models names a detector twice")
        if taken := next((name for name in self.models if name.startswith("ensemble")), None):
            raise ValueError(f"a detector cannot be called '{taken}': names that begin so are the ensembles'")
        for name in self.per_model:
            self.for_model(name)
        return self

    def for_model(self, name: str) -> Recipe:
        """Return the settings of one detector: the common ones with the detector's overrides on top."""
        base = {part: getattr(self, part).model_dump() for part in ("model", "augment", "phase1", "phase2")}
        base["model"]["name"] = name
        return Recipe.model_validate(merge(base, self.per_model.get(name, {})))


class Recipe(Settings):
    """The settings of one detector."""

    model: ModelConfig
    augment: AugmentConfig
    phase1: PhaseConfig
    phase2: AdversarialConfig


def load_config(
    preset: str = "full", file: Path | None = None, overrides: Iterable[str] = (), **values: Any
) -> RunConfig:
    """Build a `RunConfig` from a preset, an optional TOML file and ``key.path=value`` overrides.

    ``values`` are nested dictionaries with the highest precedence; they come from the command line's options.

    Raises:
        UsageError: an unknown preset, key or value (the message names it and the nearest key), or an unreadable file.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset '{preset}'{nearest(preset, PRESETS)}; choose from {', '.join(PRESETS)}")
    text = resources.files("robustbench_df").joinpath("presets", f"{preset}.toml").read_text(encoding="utf-8")
    own: dict[str, Any] = {}
    if file is not None:
        try:
            merge(own, tomllib.loads(file.read_text(encoding="utf-8-sig")))
        except OSError as error:
            raise UsageError(f"cannot read config '{file}': {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"'{file}' is not valid TOML: {error}") from error
    for override in overrides:
        merge(own, parse_override(override))
    merge(own, values)
    common = own.get("model")
    if isinstance(common, dict) and "name" in common:
        name = common["name"]
        raise UsageError(
            f"model.name is each detector's own: choose with --models {name}, or for a member of your own with "
            f"--models mine --set per_model.mine.model.name={name}"
        )
    merged = layered({"preset": preset, **tomllib.loads(text)}, own)
    if merged["preset"] != preset:
        raise UsageError(f"a preset cannot be set from a file or --set; use --preset {merged['preset']}")
    return validated(RunConfig, merged)
