"""Print a page to PDF with the machine's Chromium or Chrome, if there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from robustbench_df.errors import RunError
from robustbench_df.rundir import write_atomic

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 120
"""Timeout in seconds for the browser to print the page."""


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome, or None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def arguments(profile: str | Path) -> list[str]:
    """Return the options for a headless browser with a temporary profile and no access to the network."""
    # Chromium cannot start its sandbox as root; this is safe because the page is ours and its policy allows no loading.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [
        "--headless",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        *root,
    ]


def print_pdf(page: Path, pdf: Path) -> Path:
    """Print a page to ``pdf`` by an atomic write and return its path.

    Raises:
        RunError: there is no Chromium or Chrome, it failed, or it took longer than `PATIENCE`.
    """
    browser = find_browser()
    if browser is None:
        raise RunError(
            f"--pdf needs Chromium or Chrome, and none of {', '.join(NAMES)} is on the PATH; "
            f"install one, or open {page} in any browser and print it"
        )

    def run(temporary: Path) -> None:
        with tempfile.TemporaryDirectory() as profile:
            options = ["--no-pdf-header-footer", f"--print-to-pdf={temporary.resolve()}", page.resolve().as_uri()]
            try:
                done = subprocess.run(
                    [browser, *arguments(profile), *options], capture_output=True, timeout=PATIENCE, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise RunError(f"'{browser}' printed no PDF of '{page}' in {PATIENCE} s; print it by hand") from error
        if done.returncode or not temporary.is_file():
            raise RunError(f"'{browser}' printed no PDF of '{page}' (exit {done.returncode}); print it by hand")

    write_atomic(pdf, run)
    return pdf
