"""The commands. Nothing heavy is imported before a command runs, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from extract.backbones import BACKBONES
from extract.engine.runtimes import DEFAULT_RUNTIME, PRECISIONS, RUNTIMES
from pipelines.cli.completion import completion, names_of
from pipelines.cli.corpus import corpus
from pipelines.cli.examples import arrange
from pipelines.cli.finetune import finetune
from pipelines.cli.models import models
from pipelines.cli.options import DEVICE, DEVICES, JSON, RECOGNISER, FrameRate, KnownName, weights_of
from pipelines.cli.predict import predict
from pipelines.cli.start import doctor, init, list_names, params
from pipelines.cli.store import FEATURES
from pipelines.cli.store import cache as cache_commands
from pipelines.cli.submit import submit
from pipelines.cli.unlock import unlock
from pipelines.console.console import Group, guarded, say, show
from pipelines.project import paths

_REDO = click.option("--redo", is_flag=True, help="Train finished networks again.")
_SYSTEM = click.option(
    "--system",
    "systems",
    multiple=True,
    shell_complete=names_of("fusion", "systems"),
    help="Only this system in params.yaml; may be repeated.",
)
_HELP = {"help_option_names": ["-h", "--help"]}  # also of the commands that are scripts


@click.group(cls=Group, context_settings=_HELP)
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
    finetune,
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

    plan_stages(read_params())


@avfusion.command("crops")
@click.option("--redo", is_flag=True, help="Make finished crops again.")
@click.option("--device", default="auto", show_default=True, type=DEVICE, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--workers",
    default=0,
    type=click.IntRange(0),
    help="Processes that share the trials.  [default: on a CPU one per core, at most four]",
)
@JSON
@guarded
def crops(redo: bool, device: str, workers: int, as_json: bool) -> None:
    """Find, follow and align the face of every trial; damaged crops are made again."""
    from cache.corpus.manifest import Manifest
    from pipelines.project.params_file import read_params
    from pipelines.stages.crops import make_crops, save_crops_receipt
    from pipelines.stages.extraction import raise_failures

    config = read_params().crops
    manifest = Manifest.load(paths.CORPUS)
    outcome = make_crops(manifest, config, paths.CROPS, device, redo, workers=workers)
    raise_failures(("crops", outcome, paths.CROPS / "failures.json"))
    save_crops_receipt(manifest, config, paths.CROPS, paths.CROPS_RECEIPT)
    show([{"computed": len(outcome.computed), "kept": len(outcome.kept), "frames": outcome.frames}], as_json)


@avfusion.command("extract", context_settings=_HELP)
@click.option(
    "--backbone",
    "names",
    multiple=True,
    required=True,
    shell_complete=names_of("extract"),
    help="Name of a feature set in params.yaml ('all' for every one), or of a backbone for loose media; may be repeated.",
)
@click.option(
    "--weights",
    multiple=True,
    help="For loose media: a registered name, a path, or 'random'; for several backbones NAME=WEIGHTS for each.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="For loose media: folder for crops and features."
)
@click.option("--rate", type=FrameRate(), help="Frames per second for sound files without a picture.  [default: 25]")
@click.option(
    "--face",
    default="largest",
    show_default=True,
    help="For loose media: which face to follow: largest, centre, left, right, or a picture of the person.",
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Frames per step.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode ahead.")
@click.option("--redo", is_flag=True, help="Compute finished trials again.")
@click.option(
    "--trials", "patterns", multiple=True, help="Only trials whose id matches, e.g. 'train_*'; may be repeated."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N trials.")
@click.option("--dry-run", is_flag=True, help="Show how much there is to do and how long it would take; write nothing.")
@click.option(
    "--if-read",
    is_flag=True,
    help="Only sets that a system in params.yaml reads; the others get a receipt that says so.",
)
@click.option("--runtime", default=DEFAULT_RUNTIME, show_default=True, type=click.Choice(list(RUNTIMES)))
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="Precision of convolutions and products; part of the features' recipe.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the network with torch first.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=DEVICES,
    help="auto, cpu, cuda or cuda:N; a list such as cuda:0,cuda:1 starts one process on each.",
)
@FEATURES
@JSON
@click.argument("media", nargs=-1, type=click.Path(path_type=Path))
@guarded
def extract_features(
    names: tuple[str, ...],
    weights: tuple[str, ...],
    out: Path | None,
    rate: Fraction | None,
    face: str,
    patterns: tuple[str, ...],
    limit: int | None,
    dry_run: bool,
    if_read: bool,
    features: str,
    as_json: bool,
    media: tuple[Path, ...],
    **running: Any,
) -> None:
    """Run backbones and store their embeddings as feature sets.

    Without MEDIA: over the project's corpus, with the settings in params.yaml. With MEDIA: over these files, into --out;
    words are read from the transcript beside a file (same name, .json, .srt, .vtt or .TextGrid). The receipt is written when
    every trial is finished; failed trials are listed beside the store, and the next run tries them again.
    """
    if media and not (weights and out):
        raise click.UsageError("With media files, give --weights and --out too.")
    if not media and (weights or out):
        raise click.UsageError("--weights and --out go with media files; in the project they come from params.yaml.")
    if media and "all" in names:
        raise click.UsageError("'all' means every feature set in params.yaml; with media files, name backbones.")
    if media and click.get_current_context().get_parameter_source("features") is not ParameterSource.DEFAULT:
        raise click.UsageError("--features is for the project's features; those of media files go into --out.")
    from pipelines.project.params import ALL, FeatureSetParams
    from pipelines.project.params_file import read_params
    from pipelines.stages.plan import leave_unread

    params = None if media else read_params()
    known = BACKBONES if params is None else {*params.extract, *BACKBONES, ALL}
    for name in names:
        KnownName("backbone" if media else "feature set", known).convert(name, None, None)
    if if_read and params:
        names = leave_unread(names, params, features)
        if not names:  # before torch is imported, which takes seconds
            return
    from extract.engine.embedding import EngineOptions
    from extract.faces.crops import CropConfig
    from pipelines.stages import extraction as stage
    from pipelines.stages.dry_run import plan as plan_extraction
    from pipelines.stages.request import Job, LooseMedia, Selection, open_job, project_jobs
    from pipelines.stages.several_devices import extract_on

    options = EngineOptions(**running)
    selection = Selection(patterns, limit)
    if params is None:
        sets = {name: FeatureSetParams(chosen, name) for name, chosen in weights_of(names, weights).items()}
        jobs = [Job(sets, LooseMedia(media, rate, face), CropConfig(), Path(str(out)), options, selection)]
    else:
        jobs = project_jobs(names, params, options, selection, features)
    if dry_run:
        show([row for job in jobs for row in plan_extraction(open_job(job, build=False))], as_json)
        return
    done = [extraction for job in jobs for extraction in extract_on(job, running["device"].split(","))]
    show([extraction.row() for extraction in done], as_json)
    stage.raise_failed(done)


@avfusion.command("transcribe")
@click.option(
    "--recogniser",
    default="pocketsphinx",
    show_default=True,
    type=RECOGNISER,
    help="pocketsphinx, or vosk:<folder of a model>.",
)
@click.option("--punctuate", is_flag=True, help="Restore punctuation, which marks the ends of sentences.")
@click.option("--punctuation-model", default="", help="Folder or hub name of another model for --punctuate.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="For loose media: folder for transcripts; existing ones are kept.",
)
@click.option("--redo", is_flag=True, help="Recognise finished trials again.")
@JSON
@click.argument("media", nargs=-1, type=click.Path(path_type=Path))
@guarded
def transcribe(
    recogniser: str,
    punctuate: bool,
    punctuation_model: str,
    out: Path | None,
    redo: bool,
    as_json: bool,
    media: tuple[Path, ...],
) -> None:
    """Recognise speech in trials without words (or in loose MEDIA, into --out)."""
    if bool(media) != bool(out):
        raise click.UsageError("Media files and --out go together; without both, the project's trials are transcribed.")
    if punctuation_model and not punctuate:
        raise click.UsageError("--punctuation-model goes with --punctuate.")
    from extract.speech.punctuation import MODEL
    from pipelines.stages import transcripts as stage
    from pipelines.stages.extraction import raise_failures

    punctuation = (punctuation_model or MODEL) if punctuate else ""
    recordings = stage.find_project() if out is None else stage.find_loose(media, out, redo)
    outcome = stage.transcribe_all(recordings, recogniser, punctuation, redo)
    raise_failures(("words", outcome, (out or paths.WORDS) / stage.FAILURES))
    show([{"recognised": len(outcome.computed), "kept": len(outcome.kept)}], as_json)


@avfusion.command("train", context_settings=_HELP)
@_SYSTEM
@_REDO
@FEATURES
@JSON
@guarded
def train_fusion(systems: tuple[str, ...], redo: bool, features: str, as_json: bool) -> None:
    """Train the fusion systems in params.yaml on stored features, once per seed.

    Networks trained with the same settings, features, labels and code are kept, so a killed run continues where it stopped.
    """
    from pipelines.project.params_file import read_params
    from pipelines.stages.training import train_systems

    params = read_params()
    rows = train_systems(params.fusion, systems, features=features, redo=redo, partition=params.evaluate.partition)
    show([{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows], as_json)


@avfusion.command("evaluate", context_settings=_HELP)
@_SYSTEM
@click.option(
    "--partition",
    type=click.Choice(["auto", "train", "validation", "test"]),
    help="The partition; by default evaluate.partition in params.yaml.",
)
@FEATURES
@JSON
@guarded
def evaluate_fusion(systems: tuple[str, ...], partition: str | None, features: str, as_json: bool) -> None:
    """Predict a partition with every trained system and score what has labels.

    The predictions of all trials, labelled or not, go to work/predictions.
    """
    from pipelines.project.params_file import read_params

    params = read_params()
    chosen = params.fusion.pick(systems)  # before torch is imported, which takes seconds
    from pipelines.report.compare import score_rows
    from pipelines.stages.evaluation import evaluate_systems

    evaluate = replace(params.evaluate, partition=partition or params.evaluate.partition)
    document = evaluate_systems(params.fusion, evaluate, features=features, only=systems)
    show([document] if as_json else score_rows(document, chosen), as_json)


@avfusion.command("matrix")
@click.option("--if-any", is_flag=True, help="If there is no section 'matrix', write empty outputs and succeed.")
@_REDO
@FEATURES
@JSON
@guarded
def matrix(if_any: bool, redo: bool, features: str, as_json: bool) -> None:
    """Train and evaluate the systems in matrix.yaml (or section 'matrix' of params.yaml), and list them, best first."""
    from pipelines.project.params_file import read_params
    from pipelines.report.compare import compare_systems, table_rows
    from pipelines.stages.matrix import leave_empty, train_matrix

    params = read_params()
    if if_any and params.matrix is None:
        leave_empty()
        return
    train_matrix(params, features, redo)
    rows = compare_systems([paths.MATRIX.scores])
    show(rows if as_json else table_rows(rows), as_json)


@avfusion.command("report")
@FEATURES
@guarded
def report(features: str) -> None:
    """Write results/report.md with tables and figures, and the page results/report.html."""
    from pipelines.project.params_file import read_params
    from pipelines.report.markdown import write_report

    say(write_report(read_params(), features))


@avfusion.command("compare")
@JSON
@guarded
def compare(as_json: bool) -> None:
    """List all evaluated systems, best first, with confidence intervals over trials."""
    from pipelines.report.compare import compare_systems, table_rows

    rows = compare_systems([paths.PROJECT.scores, paths.MATRIX.scores])
    show(rows if as_json else table_rows(rows), as_json)


@avfusion.command("reproduce")
@click.argument("paper")
@click.option("--table", required=True, help="Number of the table in the paper.")
@click.option("--corpus", default="", help="Name of the corpus; by default the project's. 'demo' runs in minutes.")
@_REDO
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


@avfusion.command("docs", hidden=True)
@guarded
def docs() -> None:
    """Write what is generated: docs/params.md, docs/cli.md, and the dvc.yaml for `avfusion init`."""
    from pipelines.cli.reference import write_pages

    for path in write_pages(avfusion):
        say(path)


arrange(avfusion)


def main() -> Any:
    """Entry point of `python -m pipelines`."""
    return avfusion(prog_name="avfusion")
