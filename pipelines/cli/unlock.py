"""Command `avfusion unlock`: clean up after a DVC that was killed."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.console import Command, guarded, say


@click.command("unlock", cls=Command)
@guarded
def unlock() -> None:
    """Remove the lock file that a killed `dvc` left damaged, unless a `dvc` is running.

    For "Unable to read RWLock-file", with which every `dvc` command ends from then on.
    """
    from pipelines.project import dvc_locks

    say(dvc_locks.unlock(Path()))
