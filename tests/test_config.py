"""Settings: presets, precedence, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from robustbench_df.config import PRESETS, RunConfig, load_config
from robustbench_df.errors import UsageError
from robustbench_df.train.schedule import planned_epochs


@pytest.mark.parametrize("name", ["vgg6", "image_statistics"])
def test_preset_pretrained_trains_its_cheap_members_as_full_does(name: str) -> None:
    """It says so; their tables stand in both files."""
    full, tuned = (load_config(preset).for_model(name) for preset in ("full", "pretrained"))
    same_input = {"frontend": full.model.frontend} if name == "image_statistics" else {}  # it looks at pixels alone
    assert tuned.model_copy(update={"model": tuned.model.model_copy(update=same_input)}) == full


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load_and_survive_json(preset: str) -> None:
    config = load_config(preset)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_the_seed_preset_is_the_published_recipe() -> None:
    config = load_config("seed")
    first, second = config.phase1, config.phase2
    assert (first.epochs, first.lr, first.weight_decay, first.batch_size) == (50, 5e-4, 1e-4, 128)
    assert (first.schedule, first.patience, first.copies) == ("cosine", 15, 500)
    assert (second.epochs, second.lr, second.ratio) == (15, 1e-4, 0.3)
    assert second.epsilons == (0.02, 0.03, 0.05, 0.08)
    assert second.adversarial_copies == 400


def test_the_robust_preset_attacks_every_image_on_colours_alone_and_ships_phase_two() -> None:
    config = load_config("robust")
    recipes = [config.for_model(name) for name in config.models]
    assert {recipe.phase2.objective for recipe in recipes} == {"pgd", "trades", "fast"}
    for recipe in recipes:
        assert recipe.model.frontend == "rgb"
        assert recipe.phase2.ratio == 1.0
        assert recipe.phase2.epsilons == (pytest.approx(4 / 255),)
        assert 0 < recipe.phase2.ema < 1
    assert config.ensemble.phase == "final"


def test_precedence_is_preset_file_override_option(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[phase1]\nlr = 2e-3\nepochs = 7\nbatch_size = 32\n")
    config = load_config("seed", file, ["phase1.epochs=8", "ensemble.weights=uniform"], phase1={"batch_size": 16})
    assert (config.phase1.lr, config.phase1.epochs, config.phase1.batch_size) == (2e-3, 8, 16)
    assert config.ensemble.weights == "uniform"
    assert config.phase1.patience == 15  # untouched keys keep the preset's value


def test_per_model_overrides_reach_only_their_model() -> None:
    config = load_config("full", overrides=["per_model.resnet_se.phase1.lr=0.5"])
    assert config.for_model("resnet_se").phase1.lr == 0.5
    assert config.for_model("convnext_tiny").phase1.lr != 0.5
    assert config.for_model("convnext_tiny").model.name == "convnext_tiny"


def test_what_the_user_sets_for_all_reaches_models_that_the_preset_sets_apart() -> None:
    everywhere = load_config("full", overrides=["phase1.lr=3e-4", "augment.cutout=0"])
    for name in everywhere.models:
        assert everywhere.for_model(name).phase1.lr == 3e-4
        assert everywhere.for_model(name).augment.cutout == 0
    assert everywhere.for_model("vgg6").phase1.label_smoothing == 0.1  # what was not named stays the preset's
    assert everywhere.for_model("vgg6_colours").model.name == "vgg6"
    config = load_config("full", overrides=["per_model.convnext_tiny.phase1.lr=1e-5", "phase1.lr=3e-4"])
    assert config.for_model("convnext_tiny").phase1.lr == 1e-5
    robust = load_config("robust", phase2={"objective": "free"})
    assert {robust.for_model(name).phase2.objective for name in robust.models} == {"free"}


def test_epochs_of_the_users_are_not_cut_by_a_presets_image_budget(tmp_path: Path) -> None:
    one = load_config("full", overrides=["per_model.resnet_se.phase1.epochs=30"])
    first = one.for_model("resnet_se").phase1
    assert (first.epochs, planned_epochs(first, 8000)) == (30, 30)
    assert one.for_model("vgg6").phase1 == load_config("full").for_model("vgg6").phase1
    file = tmp_path / "mine.toml"
    file.write_text("[phase1]\nepochs = 30\nimage_budget = 16000\n")
    bounded = load_config("full", file)
    assert planned_epochs(bounded.for_model("convnext_tiny").phase1, 8000) == 2


@pytest.mark.parametrize("preset", ["full", "quick", "robust"])
def test_our_presets_train_from_scratch_whether_or_not_there_is_a_network(preset: str) -> None:
    config = load_config(preset)
    assert {config.for_model(name).model.pretrained for name in config.models} == {"never"}
    asked = load_config(preset, model={"pretrained": "auto"})
    assert {asked.for_model(name).model.pretrained for name in asked.models} == {"auto"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phase1.lrr=1", "unknown setting 'phase1.lrr' .did you mean 'phase1.lr'"),
        ("phase1.lr=-1", "phase1.lr: .*greater than 0"),
        ("phase1.schedule=cosin", "phase1.schedule"),
        ("per_model.resnet_se.phase1.epocs=1", "did you mean 'phase1.epochs'"),
        ("models=[]", "at least one detector"),
        ("models=['resnet_se', 'resnet_se']", "twice"),
        ("models=['timm:a/b', 'timm_a_b']", "twice"),  # one folder on disk
        ("models=['ensemble', 'mlp']", "cannot be called 'ensemble'"),
        ("seed=-1", "seed: .*greater than or equal to 0"),
        ("split.seed=-3", "split.seed: .*greater than or equal to 0"),
        ("phase2.epsilons=[]", "phase2.epsilons: .*at least 1"),
        ("phase2={objective='trades', mixup=0.2}", "mixup and cutmix .* or trades"),
        ("phase2={objective='trades', cutmix=1}", "mixup and cutmix .* or trades"),
        ("phase2={objective='free', mixup=0.2}", "mixup and cutmix .* free or"),
        ("split.train=0.9", "must be 1"),
        ("phase1", "KEY=VALUE"),
        ("preset=seed", "use --preset seed"),
        ("model.name=resnet18", "--models resnet18, or .* --models mine --set per_model.mine.model.name=resnet18$"),
    ],
)
def test_mistakes_are_one_line(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_config("full", overrides=[override])
    assert "\n" not in str(caught.value)


def test_a_member_of_ones_own_is_the_architecture_that_its_name_could_not_choose(tmp_path: Path) -> None:
    config = load_config("full", overrides=["per_model.mine.model.name=resnet18"], models=("mine",))
    assert config.for_model("mine").model.name == "resnet18"
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nname = 'vgg6'")
    with pytest.raises(UsageError, match="--models vgg6"):
        load_config("full", file)


def test_unknown_preset_and_bad_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        load_config("quik")
    with pytest.raises(UsageError, match="cannot read"):
        load_config("full", tmp_path / "absent.toml")
    marked = tmp_path / "marked.toml"
    marked.write_text("[phase1]\nepochs = 3", encoding="utf-8-sig")  # as editors on Windows do
    assert load_config("full", marked).phase1.epochs == 3
    broken = tmp_path / "broken.toml"
    broken.write_text("phase1 = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_config("full", broken)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config("full").phase1.lr = 1.0  # type: ignore[misc]
