"""All commands. Nothing heavy is imported before a command runs, so that `--help` is instant."""

from __future__ import annotations

from typing import Any

import click

from pipelines.cli.completion import completion
from pipelines.cli.examples import arrange
from pipelines.cli.models import models
from pipelines.cli.options.common import HELP
from pipelines.cli.predict import predict
from pipelines.cli.stages.corpus import corpus
from pipelines.cli.stages.finetune import finetune
from pipelines.cli.stages.media import crops, extract_features, transcribe
from pipelines.cli.stages.systems import compare, evaluate_fusion, matrix, report, reproduce_table, train_fusion
from pipelines.cli.stages.tune import tune_fusion
from pipelines.cli.start import doctor, init, list_names, params
from pipelines.cli.store import cache as cache_commands
from pipelines.cli.submit import submit
from pipelines.cli.unlock import unlock
from pipelines.console.console import Group, guarded, say, warn


@click.group(cls=Group, context_settings=HELP)
@click.version_option(package_name="avfusion")
def avfusion() -> None:
    """Valence and arousal from video: extract features once, then train fusion models on them.

    Run it in the project's folder; settings come from params.yaml.
    """


for command in (
    init,
    doctor,
    list_names,
    params,
    completion,
    cache_commands,
    corpus,
    crops,
    transcribe,
    extract_features,
    finetune,
    tune_fusion,
    train_fusion,
    evaluate_fusion,
    matrix,
    compare,
    report,
    reproduce_table,
    models,
    predict,
    submit,
    unlock,
):
    avfusion.add_command(command)


@avfusion.command("plan")
@guarded
def plan() -> None:
    """Record what the stages of dvc.yaml depend on (stage `plan`).

    If files of the corpus or settings have changed, `dvc repro` then runs what depends on them again.
    """
    from pipelines.project.params_file import read_params
    from pipelines.stages.plan import plan_stages
    from pipelines.starting.doctor import say_absent_weights

    params = read_params()
    plan_stages(params)
    for text in say_absent_weights(params):
        warn(text)


@avfusion.command("docs", hidden=True)
@guarded
def docs() -> None:
    """Write what is generated: docs/params.md, docs/cli.md, docs/reference, and the dvc.yaml for `avfusion init`."""
    from pipelines.cli.reference import write_pages

    for path in write_pages(avfusion):
        say(path)


arrange(avfusion)


def main() -> Any:
    """Entry point of `python -m pipelines`."""
    return avfusion(prog_name="avfusion")
