"""Command `avfusion init`: a project of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.console import Command, guarded, note, say

CORPORA = ("folder", "affwild2", "muse")
"""Those that a project can be started for."""


@click.command("init", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    required=True,
    type=click.Choice(CORPORA),
    help="folder is for your own videos.",
)
@click.option(
    "--root",
    metavar="MEDIA",
    type=click.Path(path_type=Path),
    help="Folder of the corpus; by default 'media' in the project.",
)
@click.option("--untrained", is_flag=True, help="Random weights for all backbones: only to try it without downloads.")
@guarded
def init(folder: Path, corpus: str, root: Path | None, untrained: bool) -> None:
    """Start a project of your own in DIR: settings, stages and DVC, ready for 'dvc repro'.

    DIR may be anywhere, in a git repository or not. Existing files are never overwritten.
    """
    from pipelines.starting.project import start_project

    for path in start_project(folder, corpus, root, untrained):
        say(path)
    note(f"Next: 'cd {folder}', then as its README.md says.")
