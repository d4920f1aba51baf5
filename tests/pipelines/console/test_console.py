"""Progress on a terminal and its silence elsewhere, the one sentence of an error, and the list of commands."""

from __future__ import annotations

import inspect
import io
import logging
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import rich.console
import torch
from click.testing import CliRunner, Result

from pipelines.cli.commands import avfusion
from pipelines.cli.examples import EXAMPLES
from pipelines.console.console import guarded, progress


class Clock:
    """Stands in for the clock by which the bar measures."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> io.StringIO:
    """What is written to a terminal of 120 columns in the place of stderr."""
    shown = io.StringIO()
    make = rich.console.Console

    def console(*, stderr: bool) -> rich.console.Console:
        assert stderr, "progress belongs on stderr, stdout is for results"
        return make(
            file=shown,
            force_terminal=True,
            width=120,
            color_system=None,
            legacy_windows=False,
            get_time=clock,
            _environ={"TERM": "xterm"},
        )

    monkeypatch.setattr(rich.console, "Console", console)
    return shown


def last_line(shown: io.StringIO) -> str:
    """The newest state of the bar, without the codes that move the cursor."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).replace("\r", "\n").split("\n")
    return next(line for line in reversed(lines) if line.strip())


def test_a_terminal_shows_title_count_rate_and_time_left(
    terminal: io.StringIO, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("mobilefacenet", 10_000) as advance:
        for note in ("P1", "P2", "P3"):
            clock.now_s += 2
            advance(2500, note)
    shown = last_line(terminal)
    assert re.fullmatch(r"mobilefacenet [━╸╺ ]+ +7500/10000 1,250/s 0:00:06 left 0:00:02 P3 *", shown), shown
    assert terminal.getvalue().endswith("\x1b[2K"), "the bar stays when it is done"
    assert capsys.readouterr() == ("", "")


def test_titles_and_notes_are_escaped_and_are_no_markup(terminal: io.StringIO, clock: Clock) -> None:
    with progress("[red]a\x1b[5m", 30) as advance:
        clock.now_s += 2
        advance(10, "[bold]b\n\u202e")
    shown = last_line(terminal)
    assert shown.startswith(r"[red]a\x1b[5m ")
    assert shown.rstrip().endswith(r"[bold]b\n\u202e")


def test_before_the_first_steps_rate_and_time_left_are_open(terminal: io.StringIO) -> None:
    with progress("crops", 30):
        pass
    shown = last_line(terminal)
    assert re.fullmatch(r"crops [━╸╺ ]+ +0/30 +0:00:00 left -:--:-- *", shown), shown


def test_it_is_silent_where_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with progress("crops", 30) as advance:
        advance(20, "P1")
        advance(10, "P2")
    assert capsys.readouterr() == ("", "")


def run_with(error: Exception | Callable[[], object], *arguments: str) -> Result:
    """A command that ends with this error."""

    @click.command()
    @guarded
    def command() -> None:
        if isinstance(error, Exception):
            raise error
        error()

    return CliRunner().invoke(command, arguments)


NO_MEMORY: dict[str, Exception | Callable[[], object]] = {
    "Python": MemoryError(),
    "numpy": lambda: np.zeros((10**14, 100)),
    "torch": lambda: torch.empty(10**15),
    "torch on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes."),
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    "CUDA launch": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported."),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "system": OSError(12, "Cannot allocate memory"),
    "C++": RuntimeError("std::bad_alloc"),
}


@pytest.mark.parametrize("name", sorted(NO_MEMORY))
def test_want_of_memory_is_one_sentence_with_a_remedy(name: str) -> None:
    result = run_with(NO_MEMORY[name])
    assert result.exit_code == 1
    assert result.output.startswith("Error: There is not enough memory")
    assert "Use a smaller --batch-size" in result.output
    assert result.output.count("\n") == 1
    assert "Traceback" in run_with(NO_MEMORY[name], "--debug").stderr


def test_a_file_that_ends_too_early_is_not_an_abort() -> None:
    result = run_with(EOFError("No data left in file"))
    assert (result.exit_code, "Aborted" in result.output) == (1, False)
    assert "ends too early (No data left in file)" in result.output


def test_faults_of_ours_keep_their_traceback() -> None:
    for error in (RuntimeError("Expected all tensors to be on the same device"), RecursionError("deep"), KeyError("a")):
        result = run_with(error)
        assert result.exit_code == 1
        assert result.stderr.startswith("Traceback")
        assert result.stderr.endswith(f"{type(error).__name__}: {error}\n")


def test_warnings_are_one_sentence_and_nothing_global_is_replaced() -> None:
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn_explicit("Mind this.", UserWarning, "ours.py", 3)
        warnings.warn_explicit("Old.", DeprecationWarning, "theirs.py", 4)

    before = (warnings.showwarning, warnings.formatwarning, warnings.filters[:], logging.lastResort, sys.excepthook)
    lines = run_with(warn).stderr.splitlines()
    assert lines == ["Warning: Mind this.", "theirs.py:4: DeprecationWarning: Old."]
    assert (
        warnings.showwarning,
        warnings.formatwarning,
        warnings.filters[:],
        logging.lastResort,
        sys.excepthook,
    ) == before


def groups(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    """Every group below a command, with the words that name it."""
    if isinstance(command, click.Group):
        yield path, command
        for name, child in command.commands.items():
            yield from groups((*path, name), child)


GROUPS = dict(groups((), avfusion))


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: " ".join(path) or "avfusion")
def test_the_list_of_commands_cuts_no_sentence(path: tuple[str, ...]) -> None:
    lines = CliRunner().invoke(avfusion, [*path, "--help"], terminal_width=80).stdout.splitlines()
    assert [line for line in lines if line.endswith("...") and not line.startswith("Usage:")] == []
    assert max(map(len, lines)) <= 80
    listed = " ".join(" ".join(lines[lines.index("Commands:") :]).split())
    for name, command in GROUPS[path].commands.items():
        first = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
        assert (f"{name} {first}" in listed) is not command.hidden, name


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}".strip())


def test_commands_are_listed_in_the_order_of_the_work_with_examples() -> None:
    found = dict(commands(avfusion))
    assert list(found) == list(EXAMPLES)
    text = CliRunner().invoke(avfusion, ["--help"]).output
    places = [
        text.index(f"\n  {name} ") for name in ("init", "corpus", "extract", "train", "evaluate", "report", "cache")
    ]
    assert places == sorted(places)
    for name, command in found.items():
        if command.hidden or isinstance(command, click.Group):
            continue
        shown = CliRunner().invoke(avfusion, [*name.split(), "--help"]).output
        assert EXAMPLES[name], name
        assert "\n".join(["Examples:", *(f"  {line}" for line in EXAMPLES[name])]) in shown
        assert max(map(len, EXAMPLES[name])) < 100


def complete(words: str, **variables: str) -> list[str]:
    environment = {"_AVFUSION_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner().invoke(avfusion, env={**environment, **variables}, prog_name="avfusion")
    return [line.partition(",")[2] for line in result.output.splitlines() if line]


def test_shells_complete_commands_and_names_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete("avfusion cache in") == ["info"]
    assert complete("avfusion train --system f") == []
    (tmp_path / "params.yaml").write_text(
        "fusion: {systems: {fused: {}, face: {}, audio: {}}}\nextract: {vggish: {}}\n"
    )
    assert complete("avfusion train --system f") == ["fused", "face"]
    assert complete("avfusion predict --model a") == ["audio"]
    assert complete("avfusion extract --backbone ") == ["vggish"]
    (tmp_path / "params.yaml").write_text("fusion: 1\n")
    assert complete("avfusion train --system f") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_can_be_completed(shell: str) -> None:
    text = CliRunner().invoke(avfusion, ["completion", shell]).output
    for name in ("avfusion", "extract-features", "train-fusion"):
        assert f"_{name.replace('-', '_').upper()}_COMPLETE={shell}_complete" in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, capture_output=True).returncode == 0
