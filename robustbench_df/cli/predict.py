"""``rdf predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson, Layout, MaxBad, Quiet, RunPath, Size

MOST_FINDINGS = 10
"""Findings printed one by one; the rest are counted."""


def predict(
    source: Annotated[str, typer.Argument(help="Folder, zip, manifest or one image.")],
    run: RunPath = None,
    model: Annotated[str, typer.Option(help="A detector's name, 'ensemble', or 'ensemble-uniform' …")] = "ensemble",
    phase: Annotated[str | None, typer.Option(help="base or final; as shipped when not given.")] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over fixed views (flip, shift, scale, light).")] = False,
    refit: Annotated[bool | None, typer.Option(help="Use the detectors refitted on everything, if any.")] = None,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="Also say which labels are possible: real, fake, both or neither (csv).")
    ] = False,
    form: Annotated[
        list[str] | None, typer.Option(help="challenge, probability, confidence, csv; all that fit if none.")
    ] = None,
    pack: Annotated[bool, typer.Option("--zip", help="Also write submission.zip.")] = False,
    to: Annotated[Path | None, typer.Option(help="Folder for the files; in the run when not given.")] = None,
    part: Annotated[str, typer.Option(help="auto (unlabelled images if any), all or unlabelled.")] = "auto",
    layout: Layout = "auto",
    size: Size = None,
    max_bad: MaxBad = 0.05,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict real or fake for new images with a trained run, each answer under its own image's name."""
    from robustbench_df import inference as core
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.config import file_name
    from robustbench_df.data.sources import load_images
    from robustbench_df.errors import DataError, UsageError, nearest
    from robustbench_df.run import open_run
    from robustbench_df.train.speed import choose_device

    opened = open_run(run, finished=True)
    if phase not in (None, "base", "final"):
        raise UsageError(f"unknown phase '{phase}'{nearest(str(phase), ['base', 'final'])}; choose base or final")
    with reporting(quiet or as_json) as reporter:
        if run is None:
            reporter.say(f"using the latest run, {opened.path}")
        use_refit = opened.refitted if refit is None else refit
        forms = list(form or core.FORMS)
        core.check(opened, model, forms, abstain=abstain, phase=phase, refit=use_refit)
        if use_refit:
            reporter.say("using the detectors refitted on all labelled images: no validation number belongs to them")
        height, width = opened.image_size
        # A detector is only as good as judged on images of the size it was trained on.
        side = size or (height if height == width else None)
        images = load_images(source, layout=layout, size=side, max_bad=max_bad, require_classes=False, every_image=True)
        for finding in images.findings[:MOST_FINDINGS]:
            reporter.warn(f"{finding.kind}: {finding.where}: {finding.detail}")
        if len(images.findings) > MOST_FINDINGS:
            reporter.warn(f"and {len(images.findings) - MOST_FINDINGS} findings more (rdf data info {source})")
        index = core.select(images, part)
        if part == "auto" and len(index) < len(images):
            reporter.say(f"{len(images) - len(index):,} labelled images get no answer; --part all answers them too")
        reporter.start(f"predicting with {model}", len(index))
        verdicts = core.predict(
            opened,
            images,
            index,
            model=model,
            phase=phase,
            tta=tta,
            refit=use_refit,
            abstain=abstain,
            device=choose_device(device),
            progress=reporter.advance,
        )
        reporter.finish()
        if not form:
            try:
                core.challenge_order(verdicts.ids)
            except DataError as error:
                forms = ["probability", "csv"]
                reporter.warn(f"no challenge files: {error}")
    how = [file_name(model), *([phase] if phase else []), *(["tta"] if tta else []), *(["refit"] if use_refit else [])]
    folder = to or opened.file("submissions", "-".join([_named(source), *how]))
    # The run's folder is ours alone: another set of the same name may have left its answers there.
    written = core.write_forms(verdicts, folder, forms, pack=pack, alone=to is None)
    fakes = int(verdicts.verdict.sum())
    band = opened.band(model, phase) if abstain else None
    if as_json:
        facts = {
            "run": str(opened.path),
            "images": len(verdicts.ids),
            "findings": len(images.findings),
            "fake": fakes,
            "refit": use_refit,
            **({"abstained": verdicts.abstained, "abstention_band": band.to_dict()} if band else {}),
            "files": [str(p) for p in written],
        }
        print_json(facts)
    else:
        typer.echo(f"{len(verdicts.ids)} images: {fakes} fake, {len(verdicts.ids) - fakes} real")
        if band:
            typer.echo(
                f"{verdicts.abstained} of them abstained from (column possible of the csv): both labels or neither, by "
                f"a band for an error of {band.alpha:.0%} in either class, fitted on {band.n} images ({band.fitted_on})"
                + (", without --tta or --refit" if tta or use_refit else "")
            )
        for path in written:
            typer.echo(str(path))


def _named(source: str) -> str:
    """What answers about a source are called: a folder's name, a file's without its ending."""
    path = Path(source)
    return (path.name if path.is_dir() else path.stem) or "images"
