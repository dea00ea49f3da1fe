"""``rdf attack``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robustbench_df.cli.options import AsJson, Device, Part, Quiet, RunPath, Seed, chosen, one_of, open_latest

Epsilons = Annotated[
    list[str] | None, typer.Option("--eps", help="Budget in pixels of [0, 1]: 0.05 or 8/255. May be repeated.")
]


def attack(
    eps: Epsilons = None,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="One attack, see rdf list attacks. May be repeated.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="quick (FGSM, PGD-20; default), standard (binary AutoAttack) or none.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="A setting of --attack, e.g. steps=20.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A detector, ensemble, all (default), vote or vote-surrogate."),
    ] = None,
    phase: Annotated[
        str, typer.Option(help="base, final, or both.", callback=one_of("base", "final", "both"))
    ] = "both",
    part: Part = "auto",
    n: Annotated[int, typer.Option("--n", min=0, help="Most images, evenly spaced; 0 takes all.")] = 500,
    run: RunPath = None,
    checks: Annotated[
        str,
        typer.Option(
            help="Whose numbers are checked: shipped, all or none.", callback=one_of("shipped", "all", "none")
        ),
    ] = "shipped",
    transfer: Annotated[bool, typer.Option("--transfer", help="Also the matrix crafted on × scored on.")] = False,
    save_images: Annotated[int, typer.Option(min=0, help="Keep so many adversarial examples as PNG.")] = 0,
    detector: Annotated[
        str | None, typer.Option(help="A black box instead of a run: python:module:function or http://…")
    ] = None,
    source: Annotated[str | None, typer.Option("--data", help="Images for --detector; the run's if none.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Most questions per image to --detector.")] = None,
    rate: Annotated[float | None, typer.Option(help="Most requests per second to --detector.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Attack a run's detectors and ensemble as deployed, before and after phase 2, and check the numbers."""
    from robustbench_df.attack_plan import AttackPlan
    from robustbench_df.attacks.threat import Threat, check_norm, parse_eps
    from robustbench_df.cli.attack_tables import print_attacks, print_checks, print_transfer, rows_json
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.errors import UsageError
    from robustbench_df.robustness import attack_run
    from robustbench_df.settings import validated
    from robustbench_df.wording import counted

    check_norm(norm)
    budgets = tuple(Threat(norm, parse_eps(text)).eps for text in (eps or ["8/255"]))
    if detector is None and (rate is not None or source is not None):
        raise UsageError("--rate and --data go with --detector; a run has its own images")
    if detector is not None and (transfer or save_images or models):
        raise UsageError("--transfer, --save-images and --model look into a run; leave them out with --detector")
    plan = validated(
        AttackPlan,
        {
            "epsilons": budgets,
            "norm": norm,
            "attacks": _attacks(attacks, suite, param or [], queries, outside=detector is not None),
            "models": chosen(models),
            "phases": ("base", "final") if phase == "both" else (phase,),
            "part": part,
            "images": n,
            "seed": seed,
            "device": device,
        },
    )
    with reporting(quiet or as_json) as reporter:
        if detector is not None:
            from robustbench_df.blackbox import attack_external

            outside = attack_external(detector, plan, source, run, queries, rate, reporter)
            print_json(outside)
            return
        opened = open_latest(run, reporter)
        cells = attack_run(opened, plan, reporter)
        if not as_json:
            print_attacks(opened, cells)  # print now, so that a later failure does not lose the numbers
        from robustbench_df import scrutiny

        findings = scrutiny.examine(opened, cells, plan, checks, reporter)
        matrix = scrutiny.transfer_of(opened, plan, reporter) if transfer else None
        kept = scrutiny.save_examples(opened, cells, plan, save_images, reporter) if save_images else []
    if as_json:
        facts: dict[str, Any] = {"run": str(opened.path), "allowed_findings": list(opened.allowed_findings)}
        facts |= {"cells": rows_json(opened, cells), "checks": findings, "transfer": matrix}
        print_json({**facts, "images": [str(p) for p in kept]})
        return
    if matrix is not None:
        print_transfer(matrix)
    print_checks(findings)
    for path in kept[:1]:
        examples = sum(path.stem.endswith("-adversarial") for path in kept)
        typer.echo(f"{counted(examples, 'adversarial example')}: {path.parent}")


def _attacks(
    names: list[str] | None, suite: str | None, params: list[str], queries: int | None, *, outside: bool
) -> tuple[Any, ...]:
    """Return the attacks to run: those named and the suite; by default FGSM and the suite ``quick``.

    ``outside``: the target is a black box. Without names the result is then empty, which means Square.
    """
    from robustbench_df.attacks.catalogue import attack_named
    from robustbench_df.attacks.spec import AttackSpec
    from robustbench_df.attacks.suite import SUITES
    from robustbench_df.errors import UsageError, nearest
    from robustbench_df.settings import validated

    if suite is not None and suite != "none" and suite not in SUITES:
        raise UsageError(f"unknown suite '{suite}'{nearest(suite, SUITES)}; choose from {', '.join(SUITES)}, none")
    if params and not names:
        raise UsageError("--param sets something of --attack; name one")
    if queries is not None and not names and not outside:
        raise UsageError("--queries bounds an --attack or a --detector; name one")
    if outside and suite is not None:
        raise UsageError("a suite needs gradients, which --detector does not give; name --attack square or hopskipjump")
    asked: list[Any] = []
    for name in names or []:
        attack_named(name)  # so that a misspelt name fails before anything is loaded
        asked.append(validated(AttackSpec, {"name": name, **_settings(params, queries)}))
    if not names and not outside:
        asked.append(AttackSpec(name="fgsm"))
    if suite is None and not names and not outside:
        suite = "quick"
    if suite not in (None, "none"):
        asked.append(suite)
    return tuple(asked)


def _settings(params: list[str], queries: int | None) -> dict[str, Any]:
    """Sort ``key=value`` into fields of the spec and an attack's own parameters."""
    import tomllib

    from robustbench_df.attacks.spec import AttackSpec
    from robustbench_df.errors import UsageError

    out: dict[str, Any] = {"params": {}}
    if queries is not None:
        out["queries"] = queries
    for text in params:
        key, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--param takes KEY=VALUE, not '{text}'")
        try:
            parsed: Any = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        known = key in AttackSpec.model_fields and key not in ("name", "eps", "norm", "params")
        (out if known else out["params"])[key] = parsed
    return out
