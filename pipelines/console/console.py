"""What a person sees: progress on stderr, results on stdout, one sentence per error, exit codes 0, 1 and 2.

Everything is escaped by `pipelines.console.escaping`, so that no name can control the terminal.
"""

from __future__ import annotations

import errno
import functools
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from cache.errors import AvFusionError
from pipelines.console.escaping import as_json, encodable, is_unicode, json_text, printable
from pipelines.console.tables import text_table


@contextmanager
def _escaped_usage() -> Iterator[None]:
    """Escape click's messages about a wrong command line, which quote it."""
    try:
        yield
    except click.ClickException as error:
        said = error.format_message()
        if printable(said) == said:
            raise
        if isinstance(error, click.UsageError):
            raise click.UsageError(printable(said), error.ctx) from error
        raise click.ClickException(printable(said)) from error


class Command(click.Command):
    """A command whose usage errors are escaped, and whose help ends with examples."""

    examples: tuple[str, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click does."""
        with _escaped_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does."""
        with _escaped_usage():
            return super().invoke(ctx)


class Group(Command, click.Group):
    """A group of such commands; its list of commands, in the order of the table, shows whole sentences."""

    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, unsorted."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Wrap the first sentence of every command; click would cut it to fit on one line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(limit=len(command.help or "") + 1))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error that a user can cause into one sentence on stderr and exit code 1.

    Any other error, and all with `--debug`, show their traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> Any:
        """Run it; `functools.wraps` replaces this docstring with the command's help."""
        with _escaped_libraries():
            try:
                return command(*args, **kwargs)
            except click.ClickException:
                raise
            except BrokenPipeError:
                sys.exit(1)
            except KeyboardInterrupt:
                note("Stopped. What was finished is kept; run the same command to go on.")
                sys.exit(130)
            except Exception as error:
                sentence = None if debug else _sentence(error)
                note(f"Error: {sentence}" if sentence else traceback.format_exc().rstrip())
                sys.exit(1)

    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(run)


_NO_MEMORY = re.compile("allocate memory|not enough memory|out of memory|bad_alloc|bad allocation|ALLOC_FAILED", re.I)


def _sentence(error: Exception) -> str | None:
    """The sentence to show for an error; None for a bug, which needs its traceback."""
    if isinstance(error, AvFusionError):
        return str(error)
    first = next(iter(str(error).splitlines()), "").strip()[:200].removesuffix(".")
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(str(error)):
        return (
            f"There is not enough memory{f' ({first})' if first else ''}. Use a smaller --batch-size, fewer threads or workers, "
            "or shorter trials; finished work is kept."
        )
    if isinstance(error, OSError):
        return f"{error}. Check the path, its permissions and the free space; finished work is kept."
    if isinstance(error, EOFError):
        return f"A file is empty or ends too early ({first or 'no details'}). '--debug' shows which; finished work is kept."
    return None


@contextmanager
def _escaped_libraries() -> Iterator[None]:
    """Escape the warnings and log lines of libraries while a command runs."""
    unhandled = logging.lastResort
    logging.lastResort = _Unhandled(logging.WARNING)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        finally:
            logging.lastResort = unhandled


class _Unhandled(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Show our own warnings as one sentence, those of libraries as they are."""
    if category is UserWarning:
        warn(str(message))
    else:
        note(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def say(text: object, err: bool = False) -> None:
    """Write a line to stdout or stderr. Except for JSON and the progress bar, all output goes through here."""
    stream = sys.stderr if err else sys.stdout
    click.echo(encodable(printable(str(text)), getattr(stream, "encoding", None)), err=err)


def say_json(value: Any) -> None:
    """Write a value as JSON on stdout, with null for nan and infinity."""
    click.echo(json_text(as_json(value), not is_unicode(getattr(sys.stdout, "encoding", None))))


def warn(text: str) -> None:
    """Warn on stderr about something that did not fail."""
    note(f"Warning: {text}")


def note(text: str) -> None:
    """Print a remark on stderr."""
    say(text, err=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on stderr; yields `advance(steps, note)`. Silent if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Frames per second of the last half minute."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(_cell(title), total=total, note="")

        def advance(steps: int, note: str) -> None:
            bar.update(task, advance=steps, note=_cell(note))

        yield advance


Told = Callable[[str, int, str], None]
"""Called with the name of what is being made, the number of frames just finished, and the trial, "" for one that was finished before."""


@contextmanager
def tell(told: Told | None, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """As `progress`, or, in a worker process, report to the process that started it."""
    if told is None:
        with progress(title, total) as advance:
            yield advance
    else:
        yield functools.partial(told, title)


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as an aligned table, or as JSON for programs."""
    if as_json:
        say_json(list(rows))
        return
    if not rows:
        return
    header = list(rows[0])
    lines = [[_cell(value) for value in line] for line in (header, *([row[key] for key in header] for row in rows))]
    for line in text_table(lines):
        say(line)


def _cell(value: object) -> str:
    """A value on one line."""
    return printable(str(value), keep="")
