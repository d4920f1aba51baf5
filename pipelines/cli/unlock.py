"""Command `avfusion unlock`: clean up after a DVC that was killed."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.console import Command, guarded, say


@click.command("unlock", cls=Command)
@guarded
def unlock() -> None:
    """Remove the damaged lock file of a killed `dvc`, unless a `dvc` is running.

    Use it when every `dvc` command ends with "Unable to read RWLock-file".
    """
    from pipelines.project import dvc_locks

    say(dvc_locks.unlock(Path()))
