"""Commands that work on media: `crops`, `extract` (also the script `extract-features`) and `transcribe`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from extract.backbones import BACKBONES
from extract.engine.runtimes import DEFAULT_RUNTIME, PRECISIONS, RUNTIMES
from pipelines.cli.options.common import FEATURES, HELP, JSON, ON_CLUSTER, WORKERS, names_of
from pipelines.cli.options.kinds import DEVICE, DEVICES, RECOGNISER, FrameRate, KnownName, weights_of
from pipelines.console.console import Command, guarded, show
from pipelines.project import paths

if TYPE_CHECKING:
    from extract.engine.embedding import EngineOptions
    from pipelines.stages.request import Job, LooseMedia, Selection


@click.command("crops", cls=Command)
@click.option("--redo", is_flag=True, help="Make finished crops again.")
@click.option("--device", default="auto", show_default=True, type=DEVICE, help="auto, cpu, cuda or cuda:N.")
@WORKERS
@ON_CLUSTER
@JSON
@guarded
def crops(redo: bool, device: str, workers: int | None, scheduler: str | None, as_json: bool) -> None:
    """Find, follow and align the face of every trial; damaged crops are made again.

    Processes of this machine share the trials, by default one per core of a CPU, at most four; --workers says how many. That
    needs no Dask, except where the device is a GPU.
    """
    from cache.corpus.manifest import Manifest
    from pipelines.finished.extraction import watch_crops
    from pipelines.project.params_file import read_params

    params = read_params()
    where, own = params.cluster.choose(workers, scheduler), 0
    watch = None if redo else watch_crops(params)
    rows = watch.rows() if watch else None
    if rows:  # before libraries of media are imported, and videos are read
        show(rows, as_json)
        return
    from extract.engine.devices import device_kind
    from pipelines.clusters.cluster import open_cluster
    from pipelines.console.failures import raise_failures
    from pipelines.project.params import ClusterParams
    from pipelines.stages.crops import make_crops, save_crops_receipt

    config, manifest = params.crops, Manifest.load(paths.CORPUS)
    if where.workers and device_kind(device) == "cpu":
        where, own = ClusterParams(), where.workers
    with open_cluster(where, device) as cluster:
        outcome = make_crops(manifest, config, paths.CROPS, device, redo, workers=own, cluster=cluster)
    raise_failures(("crops", outcome, paths.CROPS / "failures.json"))
    save_crops_receipt(manifest, config, paths.CROPS, paths.CROPS_RECEIPT)
    row = {"computed": len(outcome.computed), "kept": len(outcome.kept), "frames": outcome.frames}
    show([row], as_json)
    if watch:
        watch.keep([{"computed": 0, "kept": row["computed"] + row["kept"], "frames": 0}])


@click.command("extract", cls=Command, context_settings=HELP)
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
    help="For loose media: which face to follow: largest, centre, left, right, a picture of the person, or all for each person.",
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
@WORKERS
@ON_CLUSTER
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
    workers: int | None,
    scheduler: str | None,
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
    _check_usage(names, weights, out, media)
    from pipelines.finished.extraction import keep_rows, recall_rows, watch_sets
    from pipelines.project.params import ALL, ClusterParams
    from pipelines.project.params_file import read_params
    from pipelines.stages.plan import leave_unread

    params = None if media else read_params()
    known = BACKBONES if params is None else {*params.extract, *BACKBONES, ALL}
    for name in names:
        KnownName("backbone" if media else "feature set", known).convert(name, None, None)
    if if_read and params and not (names := leave_unread(names, params, features)):  # before torch is imported
        return
    where = (params.cluster if params else ClusterParams()).choose(workers, scheduler)
    devices = running["device"].split(",")
    if where.is_wanted and len(devices) > 1:
        raise click.UsageError("Several devices go without a cluster: each of its workers takes one of its machine's.")
    whole = params if not (patterns or limit or dry_run or running["redo"]) else None
    watches = watch_sets(whole, names, features, running["precision"]) if whole else {}
    if rows := recall_rows(watches, features):  # again before torch
        show(rows, as_json)
        return
    from extract.engine.embedding import EngineOptions
    from pipelines.clusters.cluster import open_cluster
    from pipelines.stages import extraction as stage
    from pipelines.stages.dry_run import plan as plan_extraction
    from pipelines.stages.request import LooseMedia, Selection, open_job, project_jobs
    from pipelines.stages.several_devices import extract_on

    options = EngineOptions(**running)
    selection = Selection(patterns, limit)
    if params is None:
        jobs = [_loose_job(weights_of(names, weights), LooseMedia(media, rate, face), out, options, selection)]
    else:
        jobs = project_jobs(names, params, options, selection, features)
    if dry_run:
        show([row for job in jobs for row in plan_extraction(open_job(job, build=False))], as_json)
        return
    with open_cluster(where, devices[0]) as cluster:
        done = [extraction for job in jobs for extraction in extract_on(job, devices, cluster)]
    rows = [extraction.row() for extraction in done]
    show(rows, as_json)
    stage.raise_failed(done)
    keep_rows(watches, rows)


def _loose_job(
    weights: dict[str, str], files: LooseMedia, out: Path | None, options: EngineOptions, selection: Selection
) -> Job:
    """The extraction of files outside any project; `weights` is backbone → its weights."""
    from extract.faces.settings import CropConfig
    from pipelines.project.params import FeatureSetParams
    from pipelines.stages.request import Job

    sets = {name: FeatureSetParams(chosen, name) for name, chosen in weights.items()}
    return Job(sets, files, CropConfig(), Path(str(out)), options, selection)


def _check_usage(names: tuple[str, ...], weights: tuple[str, ...], out: Path | None, media: tuple[Path, ...]) -> None:
    """Refuse options that do not go together."""
    if media and not (weights and out):
        raise click.UsageError("With media files, give --weights and --out too.")
    if not media and (weights or out):
        raise click.UsageError("--weights and --out go with media files; in the project they come from params.yaml.")
    if media and "all" in names:
        raise click.UsageError("'all' means every feature set in params.yaml; with media files, name backbones.")
    if media and click.get_current_context().get_parameter_source("features") is not ParameterSource.DEFAULT:
        raise click.UsageError("--features is for the project's features; those of media files go into --out.")


@click.command("transcribe", cls=Command)
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
@WORKERS
@ON_CLUSTER
@JSON
@click.argument("media", nargs=-1, type=click.Path(path_type=Path))
@guarded
def transcribe(
    recogniser: str,
    punctuate: bool,
    punctuation_model: str,
    out: Path | None,
    redo: bool,
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    media: tuple[Path, ...],
) -> None:
    """Recognise speech in trials without words (or in loose MEDIA, into --out)."""
    if bool(media) != bool(out):
        raise click.UsageError("Media files and --out go together; without both, the project's trials are transcribed.")
    if punctuation_model and not punctuate:
        raise click.UsageError("--punctuation-model goes with --punctuate.")
    from extract.speech.punctuation import MODEL
    from pipelines.clusters.cluster import open_cluster
    from pipelines.console.failures import raise_failures
    from pipelines.project.params import ClusterParams
    from pipelines.project.params_file import read_params
    from pipelines.stages import transcripts as stage

    punctuation = (punctuation_model or MODEL) if punctuate else ""
    recordings = stage.find_project() if out is None else stage.find_loose(media, out, redo)
    known = read_params().cluster if out is None else ClusterParams()
    with open_cluster(known.choose(workers, scheduler)) as cluster:
        outcome = stage.transcribe_all(recordings, recogniser, punctuation, redo, cluster)
    raise_failures(("words", outcome, (out or paths.WORDS) / stage.FAILURES))
    show([{"recognised": len(outcome.computed), "kept": len(outcome.kept)}], as_json)
