"""What is said where there is no terminal: how far a long stage is, and not more often than one wants to read."""

from __future__ import annotations

import json
import math

import pytest

from robustbench_df.cli import console
from robustbench_df.progress import BYTES


class Clock:
    """A time that moves when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_a_result_is_json_on_stdout_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"auc": math.nan, "files": ("é.png",)})
    seen = capsys.readouterr()
    assert json.loads(seen.out) == {"auc": None, "files": ["é.png"]}
    assert "NaN" not in seen.out
    assert not seen.err


def test_a_long_stage_says_how_far_it_is_and_how_long_it_will_take(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = console.PlainReporter()
    reporter.start("attack", 500, done=100)
    for _ in range(4):  # 40 images in 20 seconds, 100 in 3 minutes and 20 seconds
        clock.now += 20
        reporter.advance(40)
    assert capsys.readouterr().err.splitlines() == [
        "attack: 500 images, 100 behind us",
        "attack: 220 of 500 images, about 2 min left",
    ]


def test_whatever_is_said_counts_as_a_sign_of_life(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = console.PlainReporter()
    reporter.start("training", 1000)
    for said in (lambda: reporter.say("slow"), lambda: reporter.epoch({"epoch": 1, "loss": 1, "images_per_second": 9})):
        clock.now += 40
        said()
    clock.now += 40
    reporter.advance(10)
    assert len(capsys.readouterr().err.splitlines()) == 3
    clock.now += 20
    reporter.advance(10)
    assert capsys.readouterr().err == "training: 20 of 1000 images, about 114 min left\n"


def test_a_stage_of_unknown_length_and_a_download_tell_what_is_there(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = console.PlainReporter()
    reporter.start("answers", None)
    clock.now += 60
    reporter.advance(30)
    reporter.start("download", 3000, unit=BYTES)
    clock.now += 10
    reporter.advance(1000)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "answers: 30 images",
        "download: 0 bytes of 3.0 kB",
        "download: 1.0 kB of 3.0 kB, 100 bytes/s",
    ]
