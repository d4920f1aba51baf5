"""Commands `avfusion models …`: the trained networks."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.options.common import JSON
from pipelines.console.console import Group, guarded, note, show


@click.group(cls=Group)
def models() -> None:
    """List trained networks and fine-tunings, and remove unused ones."""


@models.command("ls")
@JSON
@guarded
def models_ls(as_json: bool) -> None:
    """List all networks and fine-tunings, and the runs that use them."""
    from pipelines.project.finetuned import list_finetunings
    from pipelines.project.networks import list_networks

    show([*list_networks(), *list_finetunings()], as_json)


@models.command("prune")
@click.option("--yes", is_flag=True, help="Remove them; without it, only show what would be removed.")
@JSON
@guarded
def models_prune(yes: bool, as_json: bool) -> None:
    """Remove the networks and fine-tunings that no run uses, and outputs of frozen fronts; when needed again they are made again."""
    from pipelines.project import finetuned, networks

    kinds = (networks.list_networks, networks.remove_network), (finetuned.list_finetunings, finetuned.remove_finetuning)
    unused = [(row, remove) for rows, remove in kinds for row in rows() if not row["runs"]]
    show([row for row, remove in unused if not yes or remove(Path(row["folder"]))], as_json)
    if not yes:
        note(f"Nothing was removed; these {len(unused)} would go, and outputs of frozen fronts; add --yes.")
    elif finetuned.remove_fronts():
        note("Removed the outputs of frozen fronts.")
