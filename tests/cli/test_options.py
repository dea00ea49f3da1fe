"""What is made of the options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_df.cli import main
from robustbench_df.cli.options import chosen, find_latest
from robustbench_df.progress import Reporter


def test_all_is_all_whatever_stands_beside_it_and_a_name_counts_once() -> None:
    assert chosen(None) == chosen([]) == chosen(["mlp", "all"]) == ()
    assert chosen(["mlp", "ensemble", "mlp"]) == ("mlp", "ensemble")


@pytest.mark.parametrize("command", ["attack", "bench", "corrupt", "explain", "export", "predict x"])
def test_a_misspelt_phase_is_one_line_in_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rdf", *command.split(), "--phase", "bsae"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rdf: --phase takes base")
    assert line.endswith("not 'bsae' (did you mean 'base'?)")


def test_only_a_run_that_was_not_named_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/one")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    said: list[str] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    assert find_latest(folder, reporter).path == folder
    assert said == []
    assert find_latest(None, reporter).path == folder
    assert said == ["using the latest run, runs/one"]
