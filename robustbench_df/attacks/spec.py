"""What an attack is told (`AttackSpec`) and what is known of it (`Attack`)."""

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
"""What an attack sees of the detector: its gradient, its logits, its verdict, nothing."""


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
    """Attack only images of the other class, towards this one; None attacks both ways."""
    queries: Annotated[int, Field(ge=1)] | None = None
    """Most forwards per image of a black-box attack."""
    eot: Annotated[int, Field(ge=1)] = 1
    """Forwards over which each answer of a random detector is averaged."""
    early_stop: bool = True
    """Finish an image at its first success. False goes on to the end and hands back the last image, as libraries do."""
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """What one attack alone understands, and the arguments of a library's attack."""

    def model_post_init(self, _: Any) -> None:
        """Refuse a budget that makes no sense in its norm."""
        Threat(self.norm, self.eps)

    @property
    def threat(self) -> Threat:
        """Norm and budget."""
        return Threat(self.norm, self.eps)

    def replaced(self, **changes: Any) -> AttackSpec:
        """Return the spec with other values, checked like the first.

        Raises:
            UsageError: a value that makes no sense, or a name that is no setting.
        """
        return validated(AttackSpec, {**self.model_dump(), **changes})


OWN_FIELDS = ("steps", "step_size", "restarts", "random_start", "momentum")
"""Fields that not every attack heeds."""


@dataclass(frozen=True)
class Attack:
    """A registered attack.

    ``run(victim, spec)`` asks the victim about images until none is alive or its steps are spent; what came of it is
    kept by the victim. ``params`` are the names it knows beyond the spec's own fields; None: it checks them itself.
    ``uses`` are those of the spec's own fields that it heeds, beyond the ones that the runner and the victim do.
    ``minimal``: it seeks the nearest adversarial image rather than one within the budget, and says
    what it found at any distance. ``from_clean``: it begins with the gradient at the clean image, which then costs no
    forward of its own.
    """

    summary: str
    run: Callable[[Victim, AttackSpec], None]
    access: Access
    norms: tuple[str, ...]
    minimal: bool = False
    params: tuple[str, ...] | None = ()
    uses: tuple[str, ...] = ()
    from_clean: Callable[[AttackSpec], bool] = lambda _: False

    def check(self, spec: AttackSpec) -> None:
        """Refuse a norm or a parameter that this attack does not know.

        Raises:
            UsageError: the message names the choices and the nearest one.
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
