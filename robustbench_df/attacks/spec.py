"""The settings of an attack (`AttackSpec`) and the record of a registered attack (`Attack`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from robustbench_df.attacks.threat import Threat
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError, nearest
from robustbench_df.settings import Settings, validated

Access = Literal["gradient", "score", "decision", "none"]
"""What an attack sees of the detector: its gradient, its logits, only its verdict, or nothing."""


class AttackSpec(Settings):
    """One attack with its settings; None means the attack's own default (`rdf list attacks`).

    ``eps`` and ``step_size`` are in pixels of [0, 1].
    """

    name: str
    eps: Annotated[float, Field(ge=0)] = 8 / 255
    norm: Literal["linf", "l2", "l1"] = "linf"
    steps: Annotated[int, Field(ge=1)] | None = None
    step_size: Annotated[float, Field(gt=0)] | None = None
    restarts: Annotated[int, Field(ge=1)] = 1
    random_start: bool | None = None
    momentum: Annotated[float, Field(ge=0, lt=10)] = 0.0
    """Decay of the gradient's running sum (Dong et al. 2018, arXiv:1710.06081); 0 is off."""
    target: Literal["real", "fake"] | None = None
    """Attack only images of the other class, towards this one; None attacks both classes."""
    queries: Annotated[int, Field(ge=1)] | None = None
    """Most forwards per image of a black-box attack."""
    eot: Annotated[int, Field(ge=1)] = 1
    """Number of forwards over which each answer of a random detector is averaged (expectation over transformation)."""
    early_stop: bool = True
    """Finish an image at its first success. False runs all steps and returns what the method ends with, as libraries
    do: the last image of FGSM, PGD and a library's attacks, the best one of others."""
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Parameters of one particular attack, or keyword arguments of a library's attack."""

    def model_post_init(self, _: Any) -> None:
        """Refuse a budget that is invalid in its norm."""
        Threat(self.norm, self.eps)

    @property
    def threat(self) -> Threat:
        """Norm and budget."""
        return Threat(self.norm, self.eps)

    def replaced(self, **changes: Any) -> AttackSpec:
        """Return a copy of the spec with other values, validated again.

        Raises:
            UsageError: a value is invalid, or a name is not a setting.
        """
        return validated(AttackSpec, {**self.model_dump(), **changes})


OWN_FIELDS = ("steps", "step_size", "restarts", "random_start", "momentum")
"""Fields that not every attack uses."""


@dataclass(frozen=True)
class Attack:
    """A registered attack.

    ``run(victim, spec)`` queries the victim until all images are finished or its steps are used up; the victim records
    the results. ``params`` are the names it accepts in ``spec.params``; None: it checks them itself. ``uses`` are the
    fields in `OWN_FIELDS` that it uses. ``minimal``: it seeks the nearest adversarial image at any distance rather than
    one within the budget. ``returns_last``: without ``early_stop`` the last image that it queried is its result.
    ``from_clean``: given the spec, whether it begins with the gradient at the clean image, which
    then shares the forward of the clean pass.
    """

    summary: str
    run: Callable[[Victim, AttackSpec], None]
    access: Access
    norms: tuple[str, ...]
    minimal: bool = False
    returns_last: bool = False
    params: tuple[str, ...] | None = ()
    uses: tuple[str, ...] = ()
    from_clean: Callable[[AttackSpec], bool] = lambda _: False

    def check(self, spec: AttackSpec) -> None:
        """Refuse a norm, parameter or setting that this attack does not support.

        Raises:
            UsageError: there is one; the message lists the choices.
        """
        if spec.norm not in self.norms:
            raise UsageError(f"{spec.name} does not attack in {spec.norm}; it knows {', '.join(self.norms)}")
        if self.params is None:
            return
        own = [*self.uses, *self.params, "queries", "eot", "target", "early_stop"]
        fields = AttackSpec.model_fields
        changed = [name for name in OWN_FIELDS if getattr(spec, name) != fields[name].default]
        for name in (*spec.params, *changed):
            if name not in own:
                raise UsageError(f"{spec.name} knows no '{name}'{nearest(name, own)}; it takes {', '.join(own)}")
