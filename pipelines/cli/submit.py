"""Commands `avfusion submit …`: files of predictions for challenges, and checks of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.cli.options import JSON
from pipelines.cli.store import FEATURES
from pipelines.console.console import Group, guarded, note, show

_RUNS = click.option(
    "--runs",
    multiple=True,
    metavar="RUN[,RUN…]",
    help="System of params.yaml, or one of its folds, seeds or targets as SYSTEM/foldK/seedN/TARGET; may be repeated.",
)
_WEIGHTS = click.option(
    "--weights",
    type=click.Choice(["mean", "ccc"]),
    default="mean",
    show_default=True,
    help="Whether networks count the same or by their validation CCC for each target.",
)
_BEST = click.option(
    "--best-folds",
    type=click.IntRange(min=0),
    default=0,
    help="Only this many folds of each system, of each the best network for each target; 0 for all networks.",
)
_PATH = click.Path(path_type=Path)


@click.group(cls=Group)
def submit() -> None:
    """Write predictions in the form of a challenge, or check such files."""


@submit.command("abaw")
@click.option(
    "--sample", required=True, type=_PATH, help="The organisers' sample, which says which rows in which order."
)
@_RUNS
@_WEIGHTS
@_BEST
@click.option("--out", type=_PATH, default=Path("results/abaw.txt"), show_default=True, help="File to write.")
@click.option("--check", type=_PATH, help="Check this file against the sample instead.")
@FEATURES
@JSON
@guarded
def submit_abaw(
    sample: Path,
    runs: tuple[str, ...],
    weights: str,
    best_folds: int,
    out: Path,
    check: Path | None,
    features: str,
    as_json: bool,
) -> None:
    """Write valence and arousal of every frame in the sample, in its order, clipped to [-1, 1]."""
    from pipelines.submission import abaw

    _choose(runs, check)
    wanted = abaw.read_sample(sample)
    if check:
        show([{"file": str(check), "rows": abaw.check(check, wanted), "faults": 0}], as_json)
        return
    manifest = _load_corpus()
    abaw.check_trials(wanted, manifest, sample)
    predictions, networks = _predict(runs, wanted.trial_ids(), manifest, weights, best_folds, features)
    counts = abaw.write(out, wanted, predictions, manifest)
    if counts["repeated"]:
        note(f"{counts['repeated']} rows are after the last frame of their trial and repeat its prediction.")
    show([{"file": str(out), "networks": networks, **counts}], as_json)


@submit.command("muse")
@_RUNS
@_WEIGHTS
@_BEST
@click.option(
    "--partition",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Whose trials.",
)
@click.option("--out", type=_PATH, default=Path("results/muse"), show_default=True, help="Folder to write.")
@click.option("--check", type=_PATH, help="Check this folder instead.")
@FEATURES
@JSON
@guarded
def submit_muse(
    runs: tuple[str, ...],
    weights: str,
    best_folds: int,
    partition: str,
    out: Path,
    check: Path | None,
    features: str,
    as_json: bool,
) -> None:
    """Write a folder per target with a file per subject: timestamp and value, as in label_segments."""
    from pipelines.submission import muse

    _choose(runs, check)
    manifest = _load_corpus()
    trial_ids = muse.choose_trials(manifest, partition)
    if check:
        show([{"folder": str(check), "files": muse.check(check, trial_ids, manifest), "faults": 0}], as_json)
        return
    predictions, networks = _predict(runs, trial_ids, manifest, weights, best_folds, features)
    show([{"folder": str(out), "networks": networks, **muse.write(out, predictions, manifest)}], as_json)


def _choose(runs: tuple[str, ...], check: Path | None) -> None:
    if bool(runs) == bool(check):
        raise click.UsageError("Expected one of --runs, to write predictions, and --check, to check those of a file.")


def _load_corpus() -> Any:
    from pipelines.project.corpus_files import load_corpus

    return load_corpus()


def _predict(
    runs: tuple[str, ...], trial_ids: list[str], manifest: Any, weights: str, best_folds: int, features: str
) -> tuple[Any, int]:
    """Predictions of trials, and the number of networks that they are the mean of."""
    from pipelines.project.params_file import read_params
    from pipelines.submission.ensemble import find_members, keep_best, predict_together

    members = find_members(read_params(), [run for several in runs for run in several.split(",") if run])
    members = keep_best(members, best_folds) if best_folds else members
    networks = len({id(member.network) for member in members})
    return predict_together(members, trial_ids, manifest, weights, features), networks
