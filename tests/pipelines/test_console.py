"""Progress: what it shows on a terminal, and that it is silent elsewhere."""

from __future__ import annotations

import io
import re

import pytest
import rich.console

from pipelines.console import progress


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
            file=shown, force_terminal=True, width=120, color_system=None, legacy_windows=False, get_time=clock,
            _environ={"TERM": "xterm"},
        )  # fmt: skip

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
