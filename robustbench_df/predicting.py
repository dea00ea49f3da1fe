"""From a source of new images to files with an answer for each: what `rdf predict` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from robustbench_df import inference
from robustbench_df.config import file_name
from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError
from robustbench_df.inference import FORMS, Verdicts
from robustbench_df.settings import Fraction, Settings
from robustbench_df.train.report import Reporter

if TYPE_CHECKING:
    from robustbench_df.data.imageset import ImageSet
    from robustbench_df.metrics.calibration import Band
    from robustbench_df.run import Run

MOST_FINDINGS = 10
"""Findings told one by one; the rest are counted."""


class PredictPlan(Settings):
    """What `rdf predict` is asked for."""

    model: str = "ensemble"
    """A detector's name, ``ensemble``, or ``ensemble-uniform`` and the like."""
    phase: Literal["base", "final"] | None = None
    """None: as shipped."""
    tta: bool = False
    refit: bool | None = None
    """Use the detectors refitted on everything; None: where there are any."""
    abstain: bool = False
    forms: tuple[str, ...] = ()
    """Of `inference.FORMS`; empty: all that fit the names of the images."""
    pack: bool = False
    """Also ``submission.zip``."""
    part: str = "auto"
    """One of `inference.PARTS`."""
    layout: str = "auto"
    size: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to bring the images to; None: the run's own, where its images are square."""
    max_bad: Fraction = 0.05
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Predicted:
    """The verdicts and the files that say them.

    ``refit``: whether the detectors refitted on everything gave them; ``band``: the abstention band, where it was asked
    for; ``findings``: how many things were wrong with the images.
    """

    verdicts: Verdicts
    refit: bool
    band: Band | None
    findings: int
    files: tuple[Path, ...]


def predict_source(
    run: Run, source: str, plan: PredictPlan, to: Path | None = None, reporter: Reporter | None = None
) -> Predicted:
    """Read new images, ask a run's detectors about them, and write their answers.

    Args:
        run: a finished run.
        source: folder, zip, manifest or one image.
        plan: what to do.
        to: folder for the files; None: one in the run, named after source, detector, phase and ways, in which the
            answers of an earlier call are not kept.
        reporter: receives progress, and what is wrong with the images.

    Raises:
        UsageError: an unknown model, form, part or device, or a refit that is not there.
        RunError: an abstention band is asked for and the run has none.
        DataError: images that cannot be read, have another size than the run's, or do not fit a form asked for.

    Warns:
        UserWarning: see `inference.predict`.
    """
    from robustbench_df.train.speed import choose_device

    reporter = reporter or Reporter()
    refit = run.refitted if plan.refit is None else plan.refit
    inference.check(run, plan.model, plan.forms, abstain=plan.abstain, phase=plan.phase, refit=refit)
    if refit:
        reporter.say("using the detectors refitted on all labelled images: no validation number belongs to them")
    images = _images(run, source, plan, reporter)
    index = inference.select(images, plan.part)
    if plan.part == "auto" and len(index) < len(images):
        reporter.say(f"{len(images) - len(index):,} labelled images get no answer; --part all answers them too")
    reporter.start(f"predicting with {plan.model}", len(index))
    verdicts = inference.predict(
        run,
        images,
        index,
        model=plan.model,
        phase=plan.phase,
        tta=plan.tta,
        refit=refit,
        abstain=plan.abstain,
        device=choose_device(plan.device),
        progress=reporter.advance,
    )
    reporter.finish()
    forms = plan.forms or _forms_for(verdicts, reporter)
    folder = to or run.file("submissions", _folder_name(source, plan, refit))
    # The run's folder is ours alone: another set of the same name may have left its answers there.
    files = inference.write_forms(verdicts, folder, forms, pack=plan.pack, alone=to is None)
    band = run.band(plan.model, plan.phase) if plan.abstain else None
    return Predicted(verdicts, refit, band, len(images.findings), tuple(files))


def _images(run: Run, source: str, plan: PredictPlan, reporter: Reporter) -> ImageSet:
    height, width = run.image_size
    # A detector is only as good as judged on images of the size it was trained on.
    side = plan.size or (height if height == width else None)
    images = load_images(
        source, layout=plan.layout, size=side, max_bad=plan.max_bad, require_classes=False, every_image=True
    )
    for finding in images.findings[:MOST_FINDINGS]:
        reporter.warn(f"{finding.kind}: {finding.where}: {finding.detail}")
    if len(images.findings) > MOST_FINDINGS:
        reporter.warn(f"and {len(images.findings) - MOST_FINDINGS} findings more (rdf data info {source})")
    return images


def _forms_for(verdicts: Verdicts, reporter: Reporter) -> tuple[str, ...]:
    """All forms, but for the challenge's where the names have no number of their own."""
    try:
        inference.challenge_order(verdicts.ids)
    except DataError as error:
        reporter.warn(f"no challenge files: {error}")
        return ("probability", "csv")
    return FORMS


def _folder_name(source: str, plan: PredictPlan, refit: bool) -> str:
    """Name the answers after the source (a folder's name, a file's without its ending) and how they were made."""
    path = Path(source)
    own = (path.name if path.is_dir() else path.stem) or "images"
    ways = [word for word, used in (("tta", plan.tta), ("refit", refit)) if used]
    return "-".join([own, file_name(plan.model), *([plan.phase] if plan.phase else []), *ways])
