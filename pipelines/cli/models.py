"""Commands `avfusion models …`: the trained networks."""

from __future__ import annotations

import click

from pipelines.cli.options import JSON
from pipelines.console.console import Group, guarded, show


@click.group(cls=Group)
def models() -> None:
    """List trained networks and remove unused ones."""


@models.command("ls")
@JSON
@guarded
def models_ls(as_json: bool) -> None:
    """List all networks and the runs that use them."""
    from pipelines.project.networks import list_networks

    show(list_networks(), as_json)


@models.command("prune")
@JSON
@guarded
def models_prune(as_json: bool) -> None:
    """Remove the networks and fine-tunings that no run uses, and outputs of frozen fronts; when needed again they are made again."""
    from pipelines.project.finetuned import prune_finetunings
    from pipelines.project.networks import prune

    show([{"removed": folder} for folder in (*prune(), *prune_finetunings())], as_json)
