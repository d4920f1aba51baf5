"""The report: figures and tables of the evaluated systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.corpus.manifest import Manifest
from cache.documents.arrays import read_arrays
from cache.documents.documents import write_file
from cache.errors import MissingFileError, SettingError, counted
from cache.names import encode_trial_id
from cache.places.folders import Where
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt
from pipelines.console.tables import markdown_table
from pipelines.project import paths
from pipelines.project.params import AUTO, FusionParams
from pipelines.project.runs import gather_history
from pipelines.project.scores import Figures, ScoresDocument, command, figure, find_stale, interval, read_scores, spread
from pipelines.report.figures import draw_history, draw_trial
from pipelines.report.wording import code, picture, plain


def write_report(params: FusionParams, features: Where = paths.FEATURES) -> Path:
    """Write `results/report.md` and its figures from the results of `evaluate` and the receipts of the features.

    Raises:
        MissingFileError: if nothing has been evaluated yet.
        SettingError: if the scores are damaged.
    """
    scores = paths.PROJECT.scores
    document = read_scores(scores)
    if document.predictions is None or not document.metrics:
        raise SettingError(f"'{scores}' was written by an older version of avfusion. Run '{command(scores)}' again.")
    manifest = Manifest.load(paths.CORPUS)
    figures = paths.RESULTS / "figures"
    history = gather_history(paths.MODELS, document.systems)
    if not history:
        raise MissingFileError(f"No trained systems in '{paths.MODELS}'. Run 'train-fusion' first.")
    draw_history(history, figures / "history.png")
    stale = find_stale(scores, document)
    drawn = _draw_trials(document, manifest, stale, figures)
    path = paths.RESULTS / "report.md"
    write_file(path, _page(document, manifest, _untrained(params, features), stale, drawn).encode())
    return path


def _draw_trials(
    document: ScoresDocument, manifest: Manifest, stale: list[str], figures: Path
) -> list[tuple[str, str]]:
    """Draw a figure for each trial of the evaluated partition; returns (trial id, file name)."""
    names = [t for t in next(iter(document.systems.values()))["ccc"] if t != "mean"]
    columns = [manifest.names.index(name) for name in names]
    targets = [manifest.targets[column] for column in columns]
    systems = [name for name, scores in document.systems.items() if set(scores["ccc"]) == {*names, "mean"}]
    shapes = {encode_trial_id(trial.id): (trial.clock.num_frames, len(targets)) for trial in manifest.trials}
    digests = document.predictions or {}
    remedy = f"Run '{command(paths.PROJECT.scores)}' again."
    archives = {
        name: read_arrays(paths.PREDICTIONS / f"{name}.npz", "<f4", shapes, digests.get(name, ""), remedy, SettingError)
        for name in systems
    }
    drawn = []
    for trial in manifest.trials:
        key = encode_trial_id(trial.id)
        predictions = {system: archive[key] for system, archive in archives.items() if key in archive}
        if predictions and trial.labels is not None:
            own = replace(trial, labels=trial.labels[:, columns])
            draw_trial(own, predictions, targets, figures / f"{key}.png", stale)
            drawn.append((trial.id, f"{key}.png"))
    return drawn


def _page(
    document: ScoresDocument, manifest: Manifest, untrained: list[str], stale: list[str], drawn: list[tuple[str, str]]
) -> str:
    systems = document.systems
    names = {trial_id for trial_id, _ in drawn}
    trials = [trial for trial in manifest.trials if trial.id in names]
    lines = [
        "# Report",
        "",
        f"{counted(len(systems), 'system')} on partition {code(document.partition)}{_say_chosen(document)}: {counted(len(trials), 'trial')} of "
        f"{counted(len({trial.subject for trial in trials}), 'subject')}, "
        f"{counted(sum(trial.clock.num_frames for trial in trials), 'frame')}. "
        f"Each figure is {_count_runs(document)} over all labelled frames concatenated; "
        f"CCC with population moments. In brackets: {100 * document.level:g} % bootstrap interval of the mean, over trials; a dash for a single one. "
        "Ensemble: the runs' mean prediction, scored once."
        + " Each network's epoch was chosen on the same trials, so the figures are on the high side."
        * (document.partition == "validation"),
        "",
        *untrained,
        *_say_stale(stale),
        *_table(systems, [*_CCC_COLUMNS, *_columns(document, by_target=False)], stale),
        "",
        *_table(systems, _columns(document, by_target=True), stale),
        "",
        picture("Validation CCC by epoch", "figures", "history.png"),
        "",
        "## Prediction against label",
        "",
        "Mean of the runs. Gaps in the label were not annotated.",
        "",
        *_say_stale(stale),
    ]
    lines += [picture(f"Trial {trial_id}", "figures", name) for trial_id, name in drawn]
    return "\n".join(lines) + "\n"


def _say_chosen(document: ScoresDocument) -> str:
    """Say why this partition was chosen, if params.yaml does not name one."""
    if document.asked != AUTO:
        return ""
    has = "not every fold has" if document.partition == "validation" else "every fold has"
    return f" (chosen by {code(AUTO)}: {has} labelled test trials)"


def _count_runs(document: ScoresDocument) -> str:
    folds = len(document.folds or ())
    seeds = document.seeds
    if seeds == folds == 1:
        return "that of one run"
    count = f"{seeds} seeds" if seeds > 1 else "one seed"
    return f"the mean ± standard deviation of {count}" + (f" on {folds} folds each" if folds > 1 else "")


_Columns = list[tuple[str, str, bool, Callable[[Figures], str]]]  # title, metric, mean over targets?, cell
_CCC_COLUMNS: _Columns = [
    ("CCC", "ccc", False, spread),
    ("CCC", "ccc", True, lambda figures: f"{spread(figures)} {interval(figures)}"),
    ("best run's CCC", "ccc", True, lambda figures: figure(figures["best"])),
    ("ensemble's CCC", "ccc", True, lambda figures: figure(figures["ensemble"])),
]


def _columns(document: ScoresDocument, *, by_target: bool) -> _Columns:
    """The metrics beside the CCC: those shown for each target, or those of which only the mean is shown."""
    return [
        (metric.title, name, not by_target, partial(spread, digits=metric.digits))
        for name, metric in (document.metrics or {}).items()
        if metric.by_target == by_target and name != "ccc"
    ]


def _table(systems: dict[str, Any], kinds: _Columns, stale: list[str]) -> list[str]:
    targets = [target for target in dict.fromkeys(t for s in systems.values() for t in s["ccc"]) if target != "mean"]
    columns = [
        (title, metric, target, cell)
        for title, metric, over_targets, cell in kinds
        for target in (["mean"] if over_targets else targets)
    ]
    rows = []
    for name, scores in systems.items():
        cells = (cell(scores[m][target]) if target in scores[m] else "" for _, m, target, cell in columns)
        rows.append([plain(name) + " (earlier networks)" * (name in stale), *cells])
    return markdown_table(["system", *(f"{plain(title)} {plain(target)}" for title, _, target, _ in columns)], rows)


def _say_stale(stale: list[str]) -> list[str]:
    """A warning that names systems whose figures and predictions are out of date."""
    if not stale:
        return []
    again = f"{command(paths.PROJECT.scores)}; avfusion report"
    return [
        f"**Earlier networks:** {', '.join(map(plain, stale))} {'was' if len(stale) == 1 else 'were'} trained again after "
        f"this evaluation; these figures and predictions are from the earlier networks. Run {code(again)}.",
        "",
    ]


def _untrained(params: FusionParams, features: Where) -> list[str]:
    """A warning that names feature sets with random weights."""
    used = {name for system in params.systems.values() for name in system.modalities.values()}
    recipes = {name: Receipt.load(find_set(features, name).receipt).recipe for name in sorted(used)}
    random = [name for name, recipe in recipes.items() if recipe.weights_sha256.startswith("random:")]
    if not random:
        return []
    return [
        f"**Untrained features:** {', '.join(map(plain, random))} ran with random weights. The figures only show that the pipeline works.",
        "",
    ]
