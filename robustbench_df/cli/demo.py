"""``rdf demo``: all steps from images to the report, on a generated data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_df.cli.options import AsJson, Quiet, Seed
from robustbench_df.cli.train import RunFolder

if TYPE_CHECKING:
    from robustbench_df.progress import Reporter
    from robustbench_df.run import Run

CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "jpeg_compression", "brightness")
"""Corruptions of four different families, so that the page shows what a corruption report looks like."""


def demo(
    run: RunFolder = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show everything in a few minutes: build the demo set, train, weigh, judge, attack, corrupt, explain, report."""
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.cli.report import facts_json, print_report
    from robustbench_df.cli.tables import print_summary, summary_json
    from robustbench_df.config import load_config
    from robustbench_df.pipeline import train_all
    from robustbench_df.report.build import report_folder, write_report
    from robustbench_df.report.content import document_of

    with reporting(quiet or as_json) as reporter:
        trained = train_all(load_config("quick", seed=seed, data={"source": "demo"}), run, reporter=reporter)
        if not as_json:
            print_summary(trained)  # print now, so that a later failure does not lose the numbers
        _examine(trained, reporter)
        document = document_of(trained.path)
        page = write_report(document, report_folder([trained.path]))
    if as_json:
        print_json({**summary_json(trained), **facts_json(document, page)})
    else:
        print_report(document, page)


def _examine(run: Run, reporter: Reporter) -> None:
    """Attack, corrupt and explain on few images: enough to show what a report contains, too few to trust numbers."""
    from robustbench_df.attack_plan import AttackPlan
    from robustbench_df.attacks.spec import AttackSpec
    from robustbench_df.corruption_grid import corrupt_run
    from robustbench_df.corruption_plan import CorruptionPlan
    from robustbench_df.explain import ExplainPlan, explain
    from robustbench_df.robustness import attack_run

    attack_run(run, AttackPlan(epsilons=(0.02, 0.05), attacks=(AttackSpec(name="fgsm"), "quick"), images=32), reporter)
    corrupt_run(run, CorruptionPlan(corruptions=CORRUPTIONS, severities=(1, 3, 5), images=64), reporter)
    explain(run, ExplainPlan(images=4, measured=24, specimens=4), reporter)
