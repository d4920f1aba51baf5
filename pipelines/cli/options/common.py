"""Options that several commands have; names are completed from params.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from pipelines.cli.options.kinds import SCHEDULER
from pipelines.project import paths

HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of `avfusion`, and of the commands that are scripts too."""


def names_of(*sections: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Complete with the names in a section of params.yaml; nothing where it is missing or faulty."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        """Names that start as what was typed."""
        from pipelines.project.yaml_files import read_yaml

        try:
            found = read_yaml(paths.PARAMS)
            for section in sections:
                found = found[section]
            return [name for name in found if str(name).startswith(begun)]
        except Exception:  # a shell shows nothing but completions
            return []

    return complete


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
FEATURES = click.option(
    "--features",
    default="features",
    show_default=True,
    metavar="PATH_OR_URL",
    help="Folder of all features, or a URL such as s3://bucket/features.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes of this machine to share the trials, by Dask (crops on a CPU: without); see docs/clusters.md.",
)
ON_CLUSTER = click.option(
    "--scheduler",
    type=SCHEDULER,
    metavar="ADDRESS",
    help="Share the trials with this Dask cluster, tcp://host:8786.",
)
REDO = click.option("--redo", is_flag=True, help="Train finished networks again.")
SYSTEM = click.option(
    "--system",
    "systems",
    multiple=True,
    shell_complete=names_of("fusion", "systems"),
    help="Only this system in params.yaml; may be repeated.",
)
CHANGES = click.option(
    "--params",
    "changes",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with settings that replace those in params.yaml, such as best.yaml of a search; systems are replaced as a whole.",
)
