"""The commands. Nothing heavy is imported before a command runs, so that `--help` is instant."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from extract.engine.runtimes import DEFAULT_RUNTIME, PRECISIONS, RUNTIMES
from pipelines.cli.corpus import corpus
from pipelines.cli.models import models
from pipelines.cli.options import JSON, Device, Devices, FrameRate, KnownName, RecogniserName, weights_of
from pipelines.cli.store import FEATURES
from pipelines.cli.store import cache as cache_commands
from pipelines.cli.unlock import unlock
from pipelines.console.console import Group, guarded, say, show

_REDO = click.option("--redo", is_flag=True, help="Train again what is already there.")
_DEVICE = click.option("--device", default="auto", show_default=True, type=Device(), help="auto, cpu, cuda or cuda:N.")


_HELP = {"help_option_names": ["-h", "--help"]}  # for the commands, too, that are scripts of their own


@click.group(cls=Group, context_settings=_HELP)
@click.version_option(package_name="avfusion")
def avfusion() -> None:
    """Valence and arousal from video: extract features once, then train fusion models on them.

    Run it in the project's folder; settings come from params.yaml.
    """


for command in (cache_commands, corpus, models, unlock):
    avfusion.add_command(command)


@avfusion.command("plan")
@guarded
def plan() -> None:
    """Write down what the stages of dvc.yaml depend on (stage `plan`).

    Changed files of the corpus or settings make `dvc repro` run what depends on them again.
    """
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.stages.plan import plan_stages

    plan_stages(read_params(paths.PARAMS))


@avfusion.command("crops")
@click.option("--redo", is_flag=True, help="Make again what is finished.")
@_DEVICE
@JSON
@guarded
def crops(redo: bool, device: str, as_json: bool) -> None:
    """Find, follow and align the face of every trial; crops that are damaged are made again."""
    from cache.corpus.manifest import Manifest
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.stages.crops import make_crops, save_crops_receipt
    from pipelines.stages.extraction import raise_failures

    config = read_params(paths.PARAMS).crops
    manifest = Manifest.load(paths.CORPUS)
    outcome = make_crops(manifest, manifest.trials, config, paths.CROPS, device, redo)
    raise_failures("crops", outcome, paths.CROPS / "failures.json")
    save_crops_receipt(manifest, config, paths.CROPS, paths.CROPS_RECEIPT)
    show([{"computed": len(outcome.computed), "kept": len(outcome.kept), "frames": outcome.frames}], as_json)


@avfusion.command("extract", context_settings=_HELP)
@click.option(
    "--backbone",
    "names",
    multiple=True,
    required=True,
    help="Name of a feature set of params.yaml, or of a backbone for loose media; may be given several times. 'all' for all of "
    "params.yaml.",
)
@click.option(
    "--weights",
    multiple=True,
    help="For loose media: a registered name, a path, or 'random'; with several backbones NAME=WEIGHTS for each.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="For loose media: folder for crops and features."
)
@click.option(
    "--rate",
    type=FrameRate(),
    help="Frames per second for sound files without a picture.  [default: 25]",
)
@click.option(
    "--face",
    default="largest",
    show_default=True,
    help="For loose media: whose face is followed: largest, centre, left, right, or a picture of the person.",
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Frames per step.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode ahead.")
@click.option("--redo", is_flag=True, help="Compute again what is finished.")
@click.option("--trials", "patterns", multiple=True, help="Only trials of this id, such as 'train_*'.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many trials.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how much and how long; write nothing.")
@click.option(
    "--if-read", is_flag=True, help="Only what a system of params.yaml reads; else leave a receipt that says so."
)
@click.option("--runtime", default=DEFAULT_RUNTIME, show_default=True, type=click.Choice(list(RUNTIMES)))
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="Of convolutions and products; part of the features' recipe.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the network with torch first.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=Devices(),
    help="auto, cpu, cuda or cuda:N; several, such as cuda:0,cuda:1, for one process on each.",
)
@FEATURES
@JSON
@click.argument("media", nargs=-1, type=click.Path(path_type=Path))
@guarded
def extract_features(
    names: tuple[str, ...], weights: tuple[str, ...], out: Path | None, rate: Fraction | None, face: str, media: tuple[Path, ...],
    batch_size: int, threads: int, redo: bool, patterns: tuple[str, ...], limit: int | None, dry_run: bool, if_read: bool,
    runtime: str, precision: str, compiled: bool, device: str, features: str, as_json: bool,
) -> None:  # fmt: skip
    """Run backbones and store their embeddings as feature sets.

    Without MEDIA: over the project's corpus, with the settings of params.yaml. With MEDIA: over these files, into --out;
    words are read from the transcript beside a file (same name, .json, .srt, .vtt or .TextGrid). A receipt is written once
    every trial is finished; what failed is listed beside the store, and taken up by the next run.
    """
    if media and not (weights and out):
        raise click.UsageError("With media files, give --weights and --out too.")
    if not media and (weights or out):
        raise click.UsageError("--weights and --out go with media files; in the project they come from params.yaml.")
    if media and "all" in names:
        raise click.UsageError("'all' stands for the feature sets of params.yaml; with media files, name backbones.")
    if media and click.get_current_context().get_parameter_source("features") is not ParameterSource.DEFAULT:
        raise click.UsageError("--features is where the project's go; those of media files go into --out.")
    from pipelines.project import paths
    from pipelines.project.params import ALL, read_params
    from pipelines.stages.plan import leave_unread

    params = None if media else read_params(paths.PARAMS)
    known = BACKBONES if params is None else [*params.extract, *BACKBONES, ALL]
    for name in names:
        KnownName("backbone" if media else "feature set", sorted(set(known))).convert(name, None, None)
    if if_read and params:
        names = leave_unread(names, params, features)
        if not names:  # before torch is imported, which takes longer
            return
    from extract.engine.embedding import EngineOptions
    from pipelines.stages import extraction as stage
    from pipelines.stages.dry_run import plan as plan_extraction
    from pipelines.stages.request import LooseMedia, Selection, loose_job, open_job, project_job
    from pipelines.stages.several_devices import extract_on

    options = EngineOptions(batch_size, threads, device, redo, runtime, precision, compiled)
    selection = Selection(patterns, limit)
    if params is None:
        files = LooseMedia(media, rate, face)
        job = loose_job(weights_of(names, weights), files, options, selection, Path(str(out)))
    else:
        job = project_job(names, params, options, selection, features)
    if dry_run:
        show(plan_extraction(open_job(job, build=False)), as_json)
        return
    done = extract_on(job, device.split(","))
    show([extraction.row() for extraction in done], as_json)
    stage.raise_failed(done)


@avfusion.command("transcribe")
@click.option(
    "--recogniser",
    default="pocketsphinx",
    show_default=True,
    type=RecogniserName(),
    help="pocketsphinx, or vosk:<folder of a model>.",
)
@click.option("--punctuate", is_flag=True, help="Restore punctuation, so that sentences are known.")
@click.option("--punctuation-model", default="", help="Folder or hub name of another model for --punctuate.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="For loose media: folder for transcripts; those in it are kept.",
)
@click.option("--redo", is_flag=True, help="Recognise again what is finished.")
@JSON
@click.argument("media", nargs=-1, type=click.Path(path_type=Path))
@guarded
def transcribe(
    recogniser: str, punctuate: bool, punctuation_model: str, out: Path | None, redo: bool, media: tuple[Path, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Recognise speech, for trials without words (or for loose MEDIA, into --out)."""
    if bool(media) != bool(out):
        raise click.UsageError("Media files and --out go together; without both, the project's trials are transcribed.")
    if punctuation_model and not punctuate:
        raise click.UsageError("--punctuation-model goes with --punctuate.")
    from extract.speech.punctuation import MODEL
    from pipelines.project import paths
    from pipelines.stages import transcripts as stage
    from pipelines.stages.extraction import raise_failures

    punctuation = (punctuation_model or MODEL) if punctuate else ""
    recordings = stage.find_project() if out is None else stage.find_loose(media, out, redo)
    outcome = stage.transcribe_all(recordings, recogniser, punctuation, redo)
    raise_failures("words", outcome, (out or paths.WORDS) / stage.FAILURES)
    show([{"recognised": len(outcome.computed), "kept": len(outcome.kept)}], as_json)


@avfusion.command("train", context_settings=_HELP)
@click.option("--system", "systems", multiple=True, help="Only this system of params.yaml; may be given several times.")
@_REDO
@FEATURES
@JSON
@guarded
def train_fusion(systems: tuple[str, ...], redo: bool, features: str, as_json: bool) -> None:
    """Train the fusion systems of params.yaml on cached features, once per seed.

    Networks that were made of the same settings, features, labels and code are kept, so that a killed run goes on.
    """
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.stages.training import train_systems

    params = read_params(paths.PARAMS)
    rows = train_systems(params.fusion, systems, features=features, redo=redo, partition=params.evaluate.partition)
    show([{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows], as_json)


@avfusion.command("evaluate", context_settings=_HELP)
@FEATURES
@JSON
@guarded
def evaluate_fusion(features: str, as_json: bool) -> None:
    """Predict a partition with every trained system and score it."""
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.project.scores import spread
    from pipelines.stages.evaluation import evaluate_systems

    params = read_params(paths.PARAMS)
    document = evaluate_systems(params.fusion, params.evaluate, features=features)
    rows = [
        {
            "system": system,
            **{
                f"{name} {target}": spread(figures, metric["digits"])
                for name, metric in document["metrics"].items()
                if metric["brief"]
                for target, figures in scores[name].items()
            },
        }
        for system, scores in document["systems"].items()
    ]
    show([document] if as_json else rows, as_json)


@avfusion.command("matrix")
@click.option("--if-any", is_flag=True, help="Only if there is a section 'matrix'; else leave empty outputs.")
@_REDO
@FEATURES
@JSON
@guarded
def matrix(if_any: bool, redo: bool, features: str, as_json: bool) -> None:
    """Train and evaluate the systems of matrix.yaml (or section 'matrix' of params.yaml), and show them, the best first."""
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.report.compare import compare_systems, table_rows
    from pipelines.stages.matrix import leave_empty, train_matrix

    params = read_params(paths.PARAMS)
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
    """Write results/report.md with tables and figures."""
    from pipelines.project import paths
    from pipelines.project.params import read_params
    from pipelines.report.markdown import write_report

    say(write_report(read_params(paths.PARAMS).fusion, features))


@avfusion.command("compare")
@JSON
@guarded
def compare(as_json: bool) -> None:
    """All evaluated systems, the best first, with confidence intervals over trials."""
    from pipelines.project import paths
    from pipelines.report.compare import compare_systems, table_rows

    rows = compare_systems([paths.PROJECT.scores, paths.MATRIX.scores])
    show(rows if as_json else table_rows(rows), as_json)


@avfusion.command("reproduce")
@click.argument("paper")
@click.option("--table", required=True, help="Number of the table in the paper.")
@click.option("--corpus", default="", help="Name of the corpus; the project's by default. 'demo' runs in minutes.")
@_REDO
@FEATURES
@JSON
@guarded
def reproduce_table(paper: str, table: str, corpus: str, redo: bool, features: str, as_json: bool) -> None:
    """Train the systems of a paper's table and print our figures beside the paper's.

    PAPER is karas2022 (tables 2, 3, 5), zhang2023 (1) or praveen2024 (1). Table 5 counts parameters and needs no data.
    """
    from pipelines.papers.reproduce import markdown, reproduce
    from pipelines.project import paths
    from pipelines.project.params import read_params

    document = reproduce(paper, table, lambda: read_params(paths.PARAMS), corpus, features, redo)
    if as_json:
        show([document], as_json)
    else:
        say(markdown(document))


@avfusion.command("params")
@guarded
def params() -> None:
    """Every setting of params.yaml with its default and meaning."""
    from pipelines.cli.reference import params_page

    say(params_page())


@avfusion.command("docs", hidden=True)
@guarded
def docs() -> None:
    """Write the generated pages docs/params.md and docs/cli.md."""
    from pipelines.cli.reference import write_pages

    for path in write_pages(avfusion):
        say(path)


@avfusion.command("list")
@click.argument("what", type=click.Choice(["backbones", "models", "corpora"]))
@JSON
@guarded
def list_names(what: str, as_json: bool) -> None:
    """Names of backbones, fusion models or corpora, with what they are."""
    from cache.names import summary
    from fusion.models import MODELS

    table = {"backbones": BACKBONES, "models": MODELS, "corpora": CORPORA}[what]
    show([{"name": name, "what": summary(target)} for name, target in table.items()], as_json)


def main() -> Any:
    """Entry point of `python -m pipelines`."""
    return avfusion(prog_name="avfusion")
