"""Command `avfusion tune`, which is a script too."""

from __future__ import annotations

from typing import Any

import click

from pipelines.cli.options.common import FEATURES, HELP, JSON, names_of
from pipelines.console.console import Command, guarded, note, show
from pipelines.search import ENGINES


@click.command("tune", cls=Command, context_settings=HELP)
@click.option(
    "--system",
    required=True,
    shell_complete=names_of("fusion", "systems"),
    help="The system in params.yaml to start from.",
)
@click.option(
    "--space",
    default="",
    metavar="NAME_OR_FILE",
    help="What to search: karas2022 for that paper's Table 1 in two stages, or a YAML file.  [default: the parameters of the "
    "system's model]",
)
@click.option("--engine", type=click.Choice(list(ENGINES)), help="[default: ray if installed, else optuna]")
@click.option(
    "--address", default="", help="Join the Ray cluster at this address, or 'auto' for the one on this machine."
)
@click.option(
    "--trials", default=20, show_default=True, type=click.IntRange(1), help="How many, in all stages together."
)
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1), help="At most so many in a trial.")
@click.option(
    "--grace", default=2, show_default=True, type=click.IntRange(1), help="Epochs before a trial may be stopped."
)
@click.option(
    "--factor",
    default=2,
    show_default=True,
    type=click.IntRange(2),
    help="Of so many trials after the grace, twice it, and so on, one goes on.",
)
@click.option("--workers", default=0, type=click.IntRange(0), help="Trials at the same time.  [default: one per core]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31), help="Of what is drawn.")
@click.option(
    "--name", default="", help="Name of the search, to have several of a system.  [default: that of the system]"
)
@click.option("--redo", is_flag=True, help="Begin again; networks are kept.")
@FEATURES
@JSON
@guarded
def tune_fusion(system: str, engine: str | None, features: str, as_json: bool, **chosen: Any) -> None:
    """Search for the settings of a system: train many variants, stop the poor ones early, and keep every network.

    Only validation trials decide. The table of trials, the best settings (best.yaml) and two pictures go to results/search/NAME.
    Killed, it goes on where it was; with more --trials it goes further.
    """
    from cache.names import require_folder_name
    from pipelines.project.params_file import read_params

    params = read_params().fusion
    name = chosen["name"] or system
    require_folder_name("Search", name, "Choose another --name.")
    from pipelines.search.results import rows_of, write_results
    from pipelines.search.search import Options, tune

    outcome = tune(params, system, Options(engine=engine or "", **chosen), features)
    path = write_results(params, system, name, outcome)
    rows = rows_of(outcome.trials)
    show(
        rows if as_json else [{key: "" if cell is None else cell for key, cell in row.items()} for row in rows], as_json
    )
    if path is not None:
        note(f"The best settings are in '{path}': train-fusion --system {system} --params {path}")
