"""Commands `avfusion corpus …`: read or generate a corpus, and check one."""

from __future__ import annotations

from pathlib import Path

import click

from extract.corpora import CORPORA
from pipelines.cli.options.common import JSON
from pipelines.cli.options.kinds import KnownName
from pipelines.console.console import Group, guarded, show, warn
from pipelines.project import paths


@click.group(cls=Group)
def corpus() -> None:
    """Read, generate or check a corpus."""


@corpus.command("build")
@JSON
@guarded
def corpus_build(as_json: bool) -> None:
    """Read the corpus in params.yaml and write its manifest (the demo corpus is generated first)."""
    from pipelines.project.params_file import read_params
    from pipelines.project.partitions import say_untrainable
    from pipelines.stages.corpus import build_corpus

    params = read_params()
    manifest = build_corpus(params.corpus, paths.CORPUS, params.crops)
    if lack := say_untrainable(manifest):
        warn(lack)
    partitions = sorted({trial.partition for trial in manifest.trials})
    members = {name: [trial for trial in manifest.trials if trial.partition == name] for name in partitions}
    show(
        [
            {
                "partition": name or "none",
                "trials": len(trials),
                "subjects": len({trial.subject for trial in trials}),
                "frames": sum(trial.clock.num_frames for trial in trials),
            }
            for name, trials in members.items()
        ],
        as_json,
    )


@corpus.command("check")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    "name",
    type=KnownName("corpus", CORPORA),
    help="Name of the corpus; by default that in params.yaml if DIR is its root, else recognised.",
)
@click.option(
    "--decode", is_flag=True, help="Also decode every crop, picture and sound; takes hours for a large corpus."
)
@JSON
@guarded
def corpus_check(folder: Path, name: str | None, decode: bool, as_json: bool) -> None:
    """Report all faults of a corpus folder and its content by partition; exit code 1 if there are faults."""
    from cache.errors import CorpusError
    from pipelines.project.params_file import read_params
    from pipelines.stages.check_corpus import check_corpus

    params = read_params() if paths.PARAMS.is_file() else None
    found = check_corpus(
        folder, name or "", params.corpus if params else None, decode, params.crops if params else None
    )
    show([found.document()] if as_json else found.rows, as_json)
    for note in () if as_json else found.notes:
        warn(note)
    if found.faults:
        raise CorpusError(found.message(folder))
