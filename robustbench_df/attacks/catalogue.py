"""The attacks by name, and the line that `rdf list attacks` prints of each."""

from __future__ import annotations

from robustbench_df.attacks import gradient, noise
from robustbench_df.attacks.spec import Attack
from robustbench_df.attacks.threat import NORMS
from robustbench_df.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack")

_TABLE = {
    "fgsm": Attack(
        "one gradient step (Goodfellow et al. 2015)", gradient.fgsm, "gradient", NORMS, from_clean=lambda _: True
    ),
    "pgd": Attack(
        "projected gradient, 40 steps (Madry et al. 2018)",
        gradient.pgd,
        "gradient",
        NORMS,
        from_clean=gradient.begins_clean,
    ),
    "noise": Attack("100 uniform draws from the ball: what any attack must beat", noise.uniform, "score", NORMS),
    "gaussian": Attack("100 Gaussian draws brought into the ball", noise.gaussian, "score", NORMS),
}
for _name, _attack in _TABLE.items():
    ATTACKS.register(_name)(_attack)


def attack_named(name: str) -> Attack:
    """Look up an attack.

    Raises:
        UsageError: the name is unknown; the message lists the choices and the nearest one.
    """
    return ATTACKS[name]
