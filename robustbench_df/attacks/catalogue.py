"""The registry of attacks by name, with the line that `rdf list attacks` prints for each."""

from __future__ import annotations

from robustbench_df.attacks import apgd, fab, gradient, hopskipjump, library, minimal, noise, square
from robustbench_df.attacks.spec import Attack
from robustbench_df.attacks.threat import NORMS
from robustbench_df.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack")

_STARTS = ("steps", "restarts", "random_start")

_TABLE = {
    "fgsm": Attack(
        "one gradient step (Goodfellow et al. 2015)",
        gradient.fgsm,
        "gradient",
        NORMS,
        returns_last=True,
        from_clean=lambda _: True,
    ),
    "pgd": Attack(
        "projected gradient, 40 steps (Madry et al. 2018)",
        gradient.pgd,
        "gradient",
        NORMS,
        returns_last=True,
        uses=("steps", "step_size", "restarts", "random_start", "momentum"),
        from_clean=gradient.begins_clean,
    ),
    "apgd": Attack("Auto-PGD on the margin, 100 steps (Croce & Hein 2020)", apgd.apgd, "gradient", NORMS, uses=_STARTS),
    "fab": Attack("nearest point across the boundary (Croce & Hein 2020)", fab.fab, "gradient", NORMS, uses=_STARTS),
    "deepfool": Attack(
        "repeated linearisation (Moosavi-Dezfooli et al. 2016)",
        minimal.deepfool,
        "gradient",
        ("linf", "l2"),
        minimal=True,
        uses=("steps",),
        from_clean=lambda _: True,
    ),
    "cw": Attack(
        "distance and margin together, by Adam (Carlini & Wagner 2017)",
        minimal.carlini_wagner,
        "gradient",
        ("l2",),
        minimal=True,
        params=("search", "kappa"),
        uses=("steps", "step_size"),
        from_clean=lambda _: True,
    ),
    "square": Attack(
        "random squares, 5,000 queries (Andriushchenko et al. 2020)",
        square.square,
        "score",
        ("linf", "l2"),
        params=("p_init",),
        uses=("steps", "restarts"),
    ),
    "hopskipjump": Attack(
        "along the boundary by verdicts alone (Chen et al. 2020)",
        hopskipjump.hopskipjump,
        "decision",
        ("linf", "l2"),
        minimal=True,
        params=("draws",),
    ),
    "noise": Attack(
        "100 uniform draws from the ball: what any attack must beat", noise.uniform, "score", NORMS, uses=("steps",)
    ),
    "gaussian": Attack("100 Gaussian draws brought into the ball", noise.gaussian, "score", NORMS, uses=("steps",)),
}
for _name, _attack in _TABLE.items():
    ATTACKS.register(_name)(_attack)


def attack_named(name: str) -> Attack:
    """Look up an attack by name: one of this package, or ``torchattacks:NAME``.

    Raises:
        UsageError: the name is unknown; the message lists the choices and the nearest one.
    """
    if name.startswith(library.PREFIX):
        return library.library_attack(name)
    return ATTACKS[name]


def access_of(name: str) -> str:
    """Return what an attack sees (`spec.Access`), given its name, such as ``square`` or ``transfer:resnet_se``.

    An attack that is not in the registry, such as ``torchattacks:NAME``, is "unknown".
    """
    name = name.partition(":")[0]
    if name == "transfer":
        return "none"
    return ATTACKS[name].access if name in ATTACKS else "unknown"
