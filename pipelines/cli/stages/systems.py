"""Commands that train, score and compare fusion systems, and report on them; `train` and `evaluate` are scripts too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pipelines.cli.options.common import CHANGES, FEATURES, HELP, JSON, REDO, SYSTEM
from pipelines.console.console import Command, guarded, note, say, show
from pipelines.project import paths


@click.command("train", cls=Command, context_settings=HELP)
@SYSTEM
@CHANGES
@REDO
@FEATURES
@JSON
@guarded
def train_fusion(systems: tuple[str, ...], changes: Path | None, redo: bool, features: str, as_json: bool) -> None:
    """Train the fusion systems in params.yaml on stored features, once per seed.

    Networks trained with the same settings, features, labels and code are kept, so a killed run continues where it stopped.
    """
    from pipelines.project.params_file import read_params
    from pipelines.stages.training import train_systems

    params = read_params(changes=changes)
    rows = train_systems(params.fusion, systems, features=features, redo=redo, partition=params.evaluate.partition)
    show([{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows], as_json)


@click.command("evaluate", cls=Command, context_settings=HELP)
@SYSTEM
@click.option(
    "--partition",
    type=click.Choice(["auto", "train", "validation", "test"]),
    help="The partition; by default evaluate.partition in params.yaml.",
)
@CHANGES
@FEATURES
@JSON
@guarded
def evaluate_fusion(
    systems: tuple[str, ...], partition: str | None, changes: Path | None, features: str, as_json: bool
) -> None:
    """Predict a partition with every trained system and score what has labels.

    The predictions of all trials, labelled or not, go to work/predictions.
    """
    from pipelines.project.params_file import read_params

    params = read_params(changes=changes)
    chosen = params.fusion.pick(systems)  # before torch is imported, which takes seconds
    from pipelines.report.compare import score_rows
    from pipelines.stages.evaluation import evaluate_systems

    evaluate = replace(params.evaluate, partition=partition or params.evaluate.partition)
    document = evaluate_systems(params.fusion, evaluate, features=features, only=systems)
    show([document] if as_json else score_rows(document, chosen), as_json)


@click.command("matrix", cls=Command)
@click.option("--if-any", is_flag=True, help="If there is no section 'matrix', write empty outputs and succeed.")
@REDO
@FEATURES
@JSON
@guarded
def matrix(if_any: bool, redo: bool, features: str, as_json: bool) -> None:
    """Train and evaluate the systems in matrix.yaml (or section 'matrix' of params.yaml), and list them, best first."""
    from pipelines.project.params_file import read_params
    from pipelines.report.compare import compare_systems, say_selection, table_rows
    from pipelines.stages.matrix import leave_empty, train_matrix

    params = read_params()
    if if_any and params.matrix is None:
        leave_empty()
        return
    train_matrix(params, features, redo)
    rows = compare_systems([paths.MATRIX.scores])
    show(rows if as_json else table_rows(rows), as_json)
    if said := say_selection(paths.MATRIX.scores):
        note(said)


@click.command("report", cls=Command)
@FEATURES
@guarded
def report(features: str) -> None:
    """Write results/report.md with tables and figures, and the page results/report.html."""
    from pipelines.finished.report import watch_report
    from pipelines.project.params_file import read_params

    params = read_params()
    watch = watch_report(params, features)
    rows = watch.rows() if watch else None
    if rows:
        say(rows[0]["report"])
        return
    from pipelines.project.scores import find_stale, read_scores
    from pipelines.report.markdown import write_report

    path = write_report(params, features)
    say(path)
    scores = paths.PROJECT.scores
    if watch and not find_stale(scores, read_scores(scores)):  # else each run warns
        watch.keep([{"report": str(path)}])


@click.command("compare", cls=Command)
@JSON
@guarded
def compare(as_json: bool) -> None:
    """List all evaluated systems, best first, with confidence intervals over trials."""
    from pipelines.report.compare import compare_systems, say_selection, table_rows

    rows = compare_systems([paths.PROJECT.scores, paths.MATRIX.scores])
    show(rows if as_json else table_rows(rows), as_json)
    if said := say_selection(paths.MATRIX.scores):
        note(said)


@click.command("reproduce", cls=Command)
@click.argument("paper")
@click.option("--table", required=True, help="Number of the table in the paper.")
@click.option("--corpus", default="", help="Name of the corpus; by default the project's. 'demo' runs in minutes.")
@REDO
@FEATURES
@JSON
@guarded
def reproduce_table(paper: str, table: str, corpus: str, redo: bool, features: str, as_json: bool) -> None:
    """Train the systems of a paper's table and print our figures beside the paper's.

    PAPER is karas2022 (tables 2, 3, 5), zhang2023 (1) or praveen2024 (1). Table 5 counts parameters and needs no data.
    """
    from pipelines.papers.reproduce import markdown, reproduce
    from pipelines.project.params_file import read_params

    document = reproduce(paper, table, lambda: read_params(), corpus, features, redo)
    if as_json:
        show([document], as_json)
    else:
        say(markdown(document))
