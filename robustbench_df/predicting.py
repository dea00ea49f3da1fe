"""`rdf predict`: read new images and write files with a prediction for each."""

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
from robustbench_df.progress import Reporter
from robustbench_df.settings import Fraction, Settings

if TYPE_CHECKING:
    from robustbench_df.data.imageset import ImageSet
    from robustbench_df.metrics.calibration import Band
    from robustbench_df.run import Run

MOST_FINDINGS = 10
"""Number of findings reported one by one; the rest are only counted."""


class PredictPlan(Settings):
    """Settings of `rdf predict`."""

    model: str = "ensemble"
    """A detector's name, ``ensemble``, or ``ensemble-uniform`` and the like."""
    phase: Literal["base", "final"] | None = None
    """None: as shipped."""
    tta: bool = False
    refit: bool | None = None
    """Use the detectors refitted on all labelled images; None: if the run has them."""
    abstain: bool = False
    forms: tuple[str, ...] = ()
    """Some of `inference.FORMS`; empty: all that fit the names of the images."""
    pack: bool = False
    """Also write ``submission.zip``."""
    part: str = "auto"
    """One of `inference.PARTS`."""
    layout: str = "auto"
    size: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to which images are scaled; None: that of the run's images, if these are square."""
    max_bad: Fraction = 0.05
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Predicted:
    """The verdicts and the files that contain them.

    ``refit``: whether they come from the refitted detectors. ``band``: the abstention band, if requested. ``findings``:
    number of problems found in the images.
    """

    verdicts: Verdicts
    refit: bool
    band: Band | None
    findings: int
    files: tuple[Path, ...]


def predict_source(
    run: Run, source: str, plan: PredictPlan, to: Path | None = None, reporter: Reporter | None = None
) -> Predicted:
    """Read new images, score them with a run's detectors, and write the predictions.

    Args:
        run: a finished run.
        source: folder, zip, manifest or a single image.
        plan: settings.
        to: folder for the files; None: a folder in the run, named after source, detector, phase and options. Files of
            an earlier call in that folder are replaced or removed.
        reporter: receives progress, and problems of the images.

    Raises:
        UsageError: an unknown model, form, part or device, or the run has no refitted detectors but they are requested.
        RunError: an abstention band is requested and the run has none.
        DataError: images cannot be read, have another size than the run's, or do not fit a requested form.

    Warns:
        UserWarning: the original size of some images is outside the range of sizes that the run was trained on.
    """
    from robustbench_df.devices import choose_device

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
    # A folder in the run holds only such files; an earlier call for another set of the same name may have left some.
    files = inference.write_forms(verdicts, folder, forms, pack=plan.pack, alone=to is None)
    band = run.band(plan.model, plan.phase) if plan.abstain else None
    return Predicted(verdicts, refit, band, len(images.findings), tuple(files))


def _images(run: Run, source: str, plan: PredictPlan, reporter: Reporter) -> ImageSet:
    height, width = run.image_size
    # The evaluation of a detector only holds for images of the size that it was trained on.
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
    """Return all forms, or those without challenge index if the names do not have unique numbers."""
    try:
        inference.challenge_order(verdicts.ids)
    except DataError as error:
        reporter.warn(f"no challenge files: {error}")
        return ("probability", "csv")
    return FORMS


def _folder_name(source: str, plan: PredictPlan, refit: bool) -> str:
    """Return a folder name made of the source's name (without a file's extension) and the options."""
    path = Path(source)
    own = (path.name if path.is_dir() else path.stem) or "images"
    ways = [word for word, used in (("tta", plan.tta), ("refit", refit)) if used]
    return "-".join([own, file_name(plan.model), *([plan.phase] if plan.phase else []), *ways])
