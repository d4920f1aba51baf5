"""Commands `avfusion submit …`: files of predictions for challenges, and checks of such files."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from pipelines.cli.options.common import FEATURES, JSON, names_of
from pipelines.console.console import Group, guarded, note, show, warn

_PATH = click.Path(path_type=Path)
_ENSEMBLE = (
    click.option(
        "--runs",
        multiple=True,
        metavar="RUN[,RUN…]",
        shell_complete=names_of("fusion", "systems"),
        help="Trained system, or one of its folds or runs as SYSTEM/foldK or SYSTEM/foldK/seedN (and /TARGET, where each target has a "
        "network of its own), or the folder of one; may be repeated.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["mean", "ccc"]),
        default="mean",
        show_default=True,
        help="Whether networks count the same or by their validation CCC for each target.",
    ),
    click.option(
        "--best-folds",
        type=click.IntRange(min=0),
        default=0,
        help="Only this many folds of each system, of each the best network for each target; 0 for all networks.",
    ),
    FEATURES,
)


def _of_ensemble(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which networks predict, and how."""
    return reduce(lambda made, option: option(made), reversed(_ENSEMBLE), command)


@click.group(cls=Group)
def submit() -> None:
    """Write predictions in the form of a challenge, or check such files."""


@submit.command("abaw")
@click.option(
    "--sample", required=True, type=_PATH, help="The organisers' sample, which says which rows in which order."
)
@_of_ensemble
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("results/abaw.txt"),
    show_default=True,
    help="File to write; replaces one of predictions only.",
)
@click.option("--check", type=_PATH, help="Check this file against the sample instead.")
@JSON
@guarded
def submit_abaw(sample: Path, out: Path, check: Path | None, as_json: bool, **how: Any) -> None:
    """Write valence and arousal of every frame in the sample, in its order, clipped to [-1, 1]."""
    from pipelines.project.corpus_files import load_corpus
    from pipelines.submission import abaw

    _choose(how["runs"], check)
    wanted = abaw.read_sample(sample)
    if check:
        abaw.refuse_sample(check, sample)
        show([{"file": str(check), "rows": abaw.check(check, wanted), "faults": 0}], as_json)
        return
    abaw.check_out(out, sample)
    manifest = load_corpus()
    abaw.check_trials(wanted, manifest, sample)
    predictions, networks = _predict(wanted.trial_ids(), manifest, **how)
    counts = abaw.write(out, wanted, predictions, manifest)
    if said := abaw.say_repeated(wanted, manifest):
        note(said)
    show([{"file": str(out), "networks": networks, **counts}], as_json)


@submit.command("muse")
@_of_ensemble
@click.option(
    "--partition",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Whose trials.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results/muse"),
    show_default=True,
    help="Folder to write; may hold folders of targets only.",
)
@click.option("--check", type=_PATH, help="Check this folder instead.")
@JSON
@guarded
def submit_muse(partition: str, out: Path, check: Path | None, as_json: bool, **how: Any) -> None:
    """Write a folder per target with a file per subject: timestamp and value, as in label_segments."""
    from pipelines.project.corpus_files import load_corpus
    from pipelines.submission import muse

    _choose(how["runs"], check)
    manifest = load_corpus()
    trial_ids = muse.choose_trials(manifest, partition)
    if check:
        show([{"folder": str(check), "files": muse.check(check, trial_ids, manifest), "faults": 0}], as_json)
        return
    muse.check_out(out, manifest)
    predictions, networks = _predict(trial_ids, manifest, **how)
    show([{"folder": str(out), "networks": networks, **muse.write(out, predictions, manifest)}], as_json)


def _choose(runs: tuple[str, ...], check: Path | None) -> None:
    from pipelines.ensembles.finding import find_networks

    if bool(runs) == bool(check):
        raise click.UsageError("Expected one of --runs, to write predictions, and --check, to check those of a file.")
    if runs and not _split(runs):
        raise click.UsageError(
            f"--runs '{','.join(runs)}' names nothing, expected a trained system or one of its runs."
        )
    find_networks(_split(runs))  # a wrong name is refused before torch is loaded


def _split(runs: tuple[str, ...]) -> list[str]:
    return [run.strip() for several in runs for run in several.split(",") if run.strip()]


def _predict(
    trial_ids: list[str], manifest: Any, runs: tuple[str, ...], weights: str, best_folds: int, features: str
) -> tuple[Any, int]:
    """Predictions of trials, and the number of networks that they are the mean of."""
    from pipelines.project.params_file import read_params
    from pipelines.submission.predictions import gather_ensemble, predict_corpus, say_seen

    params = read_params()
    ensemble = gather_ensemble(_split(runs), params, best_folds)
    if said := say_seen(ensemble, trial_ids):
        warn(said)
    networks = len({id(member.network) for member in ensemble.members})
    return predict_corpus(ensemble, trial_ids, manifest, params, features, weights), networks
