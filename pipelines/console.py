"""What a person sees: progress on stderr, results on stdout, one sentence per error, exit codes 0, 1 and 2."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from cache.errors import AvFusionError


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an `AvFusionError` into its sentence on stderr and exit code 1; `--debug` shows the traceback."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> Any:
        warnings.formatwarning = _format_warning
        try:
            return command(*args, **kwargs)
        except AvFusionError as error:
            if debug:
                raise
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("Stopped. What was finished is kept; run the same command to go on.", err=True)
            sys.exit(130)
        except OSError as error:
            if debug:
                raise
            click.echo(
                f"Error: {error}. Check the path, its permissions and the free space; finished work is kept.", err=True
            )
            sys.exit(1)

    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(run)


_format_fully = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Ours as one sentence, those of libraries as they are."""
    return (
        f"Warning: {message}\n" if category is UserWarning else _format_fully(message, category, filename, lineno, line)
    )


def warn(text: str) -> None:
    """Say on stderr what the user should know although nothing failed."""
    click.echo(f"Warning: {text}", err=True)


def note(text: str) -> None:
    """Say on stderr what is good to know."""
    click.echo(text, err=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on stderr; yields `advance(steps, note)`. Silent where stderr is no terminal."""
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
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(steps: int, note: str) -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as an aligned table, or as JSON where a program reads them."""
    if as_json:
        from pipelines import scores

        click.echo(json.dumps(scores.as_json(list(rows)), ensure_ascii=False, indent=1, allow_nan=False))
        return
    if not rows:
        return
    header = list(rows[0])
    lines = [header, *([str(row[key]) for key in header] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
