"""The command line ``rdf``: every command parses, calls one function and prints; each group of commands has a file.

Nothing heavy is imported here or at the top of a command file, so that ``rdf --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import sys

import typer

from robustbench_df._version import __version__
from robustbench_df.cli import (
    attack,
    audit,
    bench,
    corrupt,
    data,
    demo,
    experiment,
    explain,
    export,
    listing,
    predict,
    report,
    score,
    train,
)
from robustbench_df.errors import RdfError, first_line

app = typer.Typer(
    name="rdf",
    help="How far can a real/fake image detector be trusted, and which ensemble should ship?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train-all")(train.train_all)
app.command("predict")(predict.predict)
app.command("audit")(audit.audit)
app.command("attack")(attack.attack)
app.command("corrupt")(corrupt.corrupt)
app.command("score")(score.score)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("compare")(report.compare)
app.command("experiment")(experiment.experiment)
app.add_typer(data.app, name="data")
app.add_typer(listing.app, name="list")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system that mean: no room on the disk, or for so large a file."""


def _version(show: bool) -> None:
    if show:
        typer.echo(f"rdf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """How far can a real/fake image detector be trusted, and which ensemble should ship?"""


def main() -> None:
    """Run the command line; an error that the user can fix becomes one line on stderr and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        # The second is Python's choice in the C locale. Where the terminal or a log file knows no ×, a question mark is
        # better than an error after hours of work.
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except RdfError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        # Such as a folder without permission, or a full disk, of which the system does not name the file.
        if error.errno in _FULL:
            _fail(f"{error.filename or 'a file'} cannot be written: {error.strerror}; make room and go on", 1)
        _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)
    except RuntimeError as error:
        from robustbench_df.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _fail(f"out of memory ({first_line(error)}); take smaller images or fewer models, or --device cpu", 1)


def _fail(message: str, code: int) -> None:
    print("rdf: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
