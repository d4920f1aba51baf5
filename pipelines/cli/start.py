"""Commands for a start: `init`, a project of one's own, `doctor`, what it and this machine lack, `list` and `params`, what there is."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from pipelines.cli.options.common import JSON
from pipelines.console.console import Command, guarded, note, say, show
from pipelines.project import paths

if TYPE_CHECKING:
    from pipelines.starting.doctor import Finding

STARTED = ("folder", "affwild2", "muse")
"""Corpora that a project can be started for."""


@click.command("init", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    required=True,
    type=click.Choice(STARTED),
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
    note(f"Next: cd {shlex.quote(str(folder))}, then as its README.md says.")


@click.command("doctor", cls=Command)
@JSON
@guarded
def doctor(as_json: bool) -> None:
    """Say what this machine and this project have and lack, and what to do; exit code 1 if something needed is missing.

    Versions, devices, codecs, weights, disks, and the stages that 'dvc repro' would run.
    """
    from cache.errors import AvFusionError, counted
    from pipelines.starting.doctor import MISSING, NOTE, OK, Finding, examine_machine

    params, found = None, []
    if paths.PARAMS.is_file():
        from pipelines.project.params_file import read_params
        from pipelines.starting.outdated import find_outdated

        try:
            params = read_params()
            outdated = find_outdated(params) if Path("dvc.yaml").is_file() else {}
            found += [Finding("project", name, NOTE, why) for name, why in outdated.items()]
            stages = NOTE, f"{counted(len(outdated), 'stage')} to run", "Run 'dvc repro'."
            found.append(Finding("project", "stages", *(stages if outdated else (OK, "up to date"))))
        except AvFusionError as error:
            found.append(Finding("project", "settings", MISSING, "cannot be read", str(error)))
    found = [*examine_machine(params, in_project=bool(found)), *found]
    if as_json:
        show([asdict(finding) for finding in found], as_json)
    else:
        _say_findings(found)
    if any(finding.state == MISSING for finding in found):
        sys.exit(1)


def _say_findings(found: list[Finding]) -> None:
    """A line for each finding, and one for what to do about it."""
    for area in dict.fromkeys(finding.area for finding in found):
        say(area)
        for finding in found:
            if finding.area == area:
                say(f"  {finding.state:<8}{finding.name:<24} {finding.found}")
                if finding.remedy:
                    say(f"          {finding.remedy}")


@click.command("list", cls=Command)
@click.argument("what", type=click.Choice(["backbones", "models", "corpora"]))
@JSON
@guarded
def list_names(what: str, as_json: bool) -> None:
    """List backbones, fusion models or corpora, each with a line of description."""
    from cache.names import summary
    from fusion.models import MODELS

    table = {"backbones": BACKBONES, "models": MODELS, "corpora": CORPORA}[what]
    show([{"name": name, "what": summary(target)} for name, target in table.items()], as_json)


@click.command("params", cls=Command)
@guarded
def params() -> None:
    """List every setting of params.yaml with its default and meaning."""
    from pipelines.cli.reference import params_page

    say(params_page())
