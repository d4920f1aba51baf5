"""Command `avfusion finetune`."""

from __future__ import annotations

import click

from pipelines.cli.options.common import FEATURES, JSON
from pipelines.cli.options.kinds import DEVICE
from pipelines.console.console import Command, guarded, show
from pipelines.project import paths


@click.command("finetune", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--run", "runs", multiple=True, help="Only this fine-tuning of params.yaml; may be given several times.")
@click.option("--if-any", is_flag=True, help="As the stage of dvc.yaml: also without a section 'finetune'.")
@click.option("--redo", is_flag=True, help="Train again what is already there.")
@click.option("--device", default="auto", show_default=True, type=DEVICE, help="auto, cpu, cuda or cuda:N.")
@FEATURES
@JSON
@guarded
def finetune(runs: tuple[str, ...], if_any: bool, redo: bool, device: str, features: str, as_json: bool) -> None:
    """Train backbones under a fusion model, as section `finetune` of params.yaml says, once per fold.

    A feature set with `weights: finetuned` is then extracted with them. A killed run goes on after the last epoch that it
    finished.
    """
    from cache.errors import SettingError
    from pipelines.project.finetuned import gather_finetunings, leave_traces
    from pipelines.project.params_file import read_params
    from pipelines.training.history import write_history

    params = read_params()
    if not params.finetune and not if_any:
        raise SettingError(
            "Section 'finetune' of params.yaml names nothing; expected at least one fine-tuning. Add one."
        )
    rows = []
    if params.pick_finetunings(runs):  # else nothing needs torch, whose import takes seconds
        from pipelines.stages.finetuning import finetune_all

        rows = finetune_all(params, runs, features, redo, device)
    write_history(paths.FINETUNING_HISTORY, gather_finetunings(params))
    if not runs:
        leave_traces(params)
    show([{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows], as_json)
