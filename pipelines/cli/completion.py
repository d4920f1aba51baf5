"""Command `avfusion completion`, and the names of a project that the shell completes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import click

from pipelines.console.console import Command, guarded, say
from pipelines.project import paths


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@guarded
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and names: add it to the shell's settings."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    names = sorted(
        each.name for each in entry_points(group="console_scripts") if each.value.startswith("pipelines.cli.")
    )
    for name in names:
        say(kind(click.Command(name), {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source())


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
