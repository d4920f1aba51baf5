"""Command `avfusion completion`."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from pipelines.console.console import Command, guarded, say


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@guarded
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options, systems and feature sets: add it to the shell's settings."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    names = sorted(
        each.name for each in entry_points(group="console_scripts") if each.value.startswith("pipelines.cli.")
    )
    for name in names:
        say(kind(click.Command(name), {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source())
