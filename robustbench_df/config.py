"""Frozen settings, one model per stage: TOML in, JSON out, unknown keys refused with a hint.

Precedence, weakest first: field defaults, preset, ``--config FILE``, ``--set key=value``. What the user sets for all
models also stands over what the preset sets for one (`robustbench_df.layering`).
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
PRESETS = ("full", "quick", "robust", "seed")

AUTO_FOLDS, AUTO_FOLDS_UP_TO = 5, 5000


class DataConfig(Settings):
    """What to read (`robustbench_df.load_images`)."""

    source: str = "demo"
    layout: str = "auto"
    labels: Literal["folder", "predictions"] = "folder"
    fake_is: Literal[0, 1] | None = None
    size: Annotated[int, Field(ge=8)] | None = None
    max_bad: Fraction = 0.05
    group_by: Literal["folder"] | None = None
    """``folder``: each lowest folder is a group, which no split divides: a video's frames, a person's photographs."""


class SplitConfig(Settings):
    """Fractions of the labelled images; parts given by the source are kept, the rest is divided in proportion.

    With ``folds`` above 1 no test part is cut off: every image is judged by the detectors that have not seen it.
    """

    train: Fraction = 0.7
    val: Fraction = 0.1
    cal: Fraction = 0.1
    test: Fraction = 0.1
    folds: Annotated[int, Field(ge=1, le=20)] | Literal["auto"] = "auto"
    """How often each detector is trained. ``auto``: 5 times up to 5,000 labelled images, where every image counts and a
    held-out part would be too small to judge by; once beyond."""
    near_copies: bool = True
    """Keep near copies (crops, flips, re-compressed ones …) in one part, as pixel-identical images always are."""
    seed: Count | None = None
    """None: the run's own seed."""

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
    """Batched augmentation on tensors, train images only (`robustbench_df.train.augment`)."""

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
    """Side of a grey square in every image, as a share of the image's (Cutout, DeVries & Taylor 2017)."""
    trivial: bool = False
    """TrivialAugmentWide (Müller & Hutter 2021), before the others."""
    corruption: Fraction = 0.0
    """Share of images that come with noise or JPEG traces of severity 1 to 5, after all others
    (`robustbench_df.train.corrupted`). Blur is left out, so that `rdf corrupt` can still ask about the unknown."""


class PhaseConfig(Settings):
    """Phase 1: clean training."""

    epochs: Count = 60
    image_budget: Count = 0
    """Most images to see in the phase on a CPU, over all folds (0: no limit), which bounds the time: as many whole
    epochs as fit, or a part of one. An accelerator has no need of it."""
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    batch_size: Annotated[int, Field(ge=2)] = 64
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Images per forward; smaller than the batch means gradient accumulation. None: the whole batch."""
    schedule: Literal["cosine", "onecycle", "plateau", "constant"] = "onecycle"
    """``plateau`` halves the rate when val stops improving, and so does not go with ``refit``."""
    warmup: Fraction = 0.25
    """Share of the steps spent raising the rate (onecycle and cosine)."""
    patience: Count = 0
    """Epochs without a better val AUC after which the phase ends (0: never)."""
    select: Literal["best", "last"] = "best"
    """Which checkpoint is kept: the best on val, or the last (for refits, which have no val)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Beta parameter (Zhang et al. 2018); 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Beta parameter (Yun et al. 2019); 0 is off. With mixup on too, each batch takes one of the two at random."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights, which is then what is evaluated and kept; 0 is off."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 is off."""
    freeze_backbone: bool = False
    copies: Count = 0
    """Fixed augmented copies of train images, added to train under their source's label."""

    @property
    def all_copies(self) -> int:
        """Images that train is longer by."""
        return self.copies


class AdversarialConfig(PhaseConfig):
    """Phase 2: clean and adversarial images together, from phase 1's checkpoint."""

    epochs: Count = 6
    lr: Positive = 1e-4
    objective: Literal["fgsm", "fast", "free", "pgd", "trades"] = "fgsm"
    """How images are attacked (`robustbench_df.train.objectives`): ``fgsm`` is the recipe, which does not make robust;
    ``fast`` one step from a random start; ``free`` by the gradient that trains the weights, each batch several times;
    ``pgd`` several steps; ``trades`` several steps away from the clean answer, with a loss of its own. All but
    ``fgsm`` have a guard that ends the phase when they collapse."""
    attack_steps: Annotated[int, Field(ge=1)] = 5
    """Steps of ``pgd`` and ``trades``."""
    replays: Annotated[int, Field(ge=1)] = 4
    """Steps of ``free`` on each batch; an epoch has as many steps as ever, so it meets fewer batches."""
    beta: Annotated[float, Field(ge=0)] = 6.0
    """Weight of robustness against accuracy in ``trades`` (6 in Zhang et al. 2019)."""
    ratio: Fraction = 0.3
    """Share of adversarial images: 0.3 is the recipe's 70/30; ``trades`` attacks every image."""
    epsilons: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.02, 0.03, 0.05, 0.08)
    """One is drawn per image, L∞ in pixels of [0, 1]."""
    mix: Literal["sample", "batch"] = "sample"
    """sample: that share of every batch; batch: that share of the batches, whole."""
    separate_norm: bool = False
    """Attacked images pass through batch normalisations of their own while training (AdvProp, Xie et al. 2020). What is
    deployed has the clean ones: accuracy is kept, and robustness too only as far as the other weights carry it."""
    adversarial_copies: Count = 0
    """Fixed FGSM copies of train images, crafted against phase 1's checkpoint, added under their source's label."""
    select_epsilon: Annotated[float, Field(gt=0, le=1)] = 0.05
    """The strength at which val is attacked to choose the checkpoint: by FGSM under ``fgsm``, else by PGD."""

    @property
    def all_copies(self) -> int:
        """Images that train is longer by, attacked copies among them."""
        return self.copies + self.adversarial_copies

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
    """How to compute; ``auto`` is measured by a probe of a few steps (`robustbench_df.train.speed`)."""

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    own_gradients: bool = True
    """On a CPU, gradients that the library is slow at are computed by `train.convolution` and `train.excitation`."""
    save_every: Annotated[float, Field(ge=0)] = 20.0
    """Least seconds between two saves of the training state: what a kill can cost."""


class EnsembleConfig(Settings):
    """How detectors are combined and which combination is shipped; decided on val (or out-of-fold) predictions."""

    weights: Literal["auto", "accuracy", "uniform", "logodds", "stacked"] = "accuracy"
    """``auto`` ships the kind with the lowest cross-fitted log loss; every kind is fitted and reported."""
    phase: Literal["auto", "base", "final"] = "final"
    """Which checkpoints are shipped: before or after adversarial fine-tuning; ``auto``: the lower log loss on clean
    images, because surviving one gradient step is worth little against an attacker who takes more."""
    threshold: Literal["accuracy", "youden", "half"] | FprRule = "accuracy"
    """How the threshold is fitted: for accuracy, for TPR - FPR (Youden 1950), not at all, or, as in ``fpr:0.01``, for
    the most fakes found at a rate of false alarms."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Target error of the abstention band (`rdf predict --abstain`), in either class."""


def file_name(model: str) -> str:
    """What the files of a detector are called: its name, without what a path cannot hold."""
    return model.replace(":", "_").replace("/", "_")


class RunConfig(Settings):
    """Everything `rdf train-all` needs, as kept in ``config.json``."""

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
    """Most images of the judged part on which `train-all` tries FGSM, evenly spaced (0: all). Clean numbers use all."""
    refit: bool = False
    allow_findings: bool = False
    """Train in spite of a failing finding of the audit; the run and what is made of it say so."""
    per_model: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides by model name, for example ``{"resnet_se": {"phase1": {"lr": 3e-4}}}``. A name of one's own is another
    member of an architecture: ``{"twin": {"model": {"name": "resnet_se", "frontend": "rgb"}}}``."""

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
        """Return the settings of one detector: the common ones with its own overrides on top."""
        base = {part: getattr(self, part).model_dump() for part in ("model", "augment", "phase1", "phase2")}
        base["model"]["name"] = name
        return Recipe.model_validate(merge(base, self.per_model.get(name, {})))


class Recipe(Settings):
    """One detector's own settings."""

    model: ModelConfig
    augment: AugmentConfig
    phase1: PhaseConfig
    phase2: AdversarialConfig


def load_config(
    preset: str = "full", file: Path | None = None, overrides: Iterable[str] = (), **values: Any
) -> RunConfig:
    """Build a `RunConfig` from a preset, an optional TOML file and ``key.path=value`` overrides.

    ``values`` are nested dictionaries of the strongest precedence, as the command line's own options give them.

    Raises:
        UsageError: an unknown preset, key or value; the message names the key and the nearest known one.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset '{preset}'{nearest(preset, PRESETS)}; choose from {', '.join(PRESETS)}")
    text = resources.files("robustbench_df").joinpath("presets", f"{preset}.toml").read_text()
    own: dict[str, Any] = {}
    if file is not None:
        try:
            merge(own, tomllib.loads(file.read_text()))
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
