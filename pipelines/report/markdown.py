"""The report: figures and tables of the evaluated systems."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cache.corpus.manifest import Manifest
from cache.documents.documents import write_file
from cache.errors import MissingFileError, SettingError, counted
from cache.names import encode_trial_id
from cache.places.folders import Where
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt
from pipelines.console.tables import markdown_table
from pipelines.project import paths
from pipelines.project.finetuned import gather_finetunings
from pipelines.project.params import AUTO, Params
from pipelines.project.runs import Row, best_epoch, gather_history
from pipelines.project.scores import Figures, ScoresDocument, command, figure, find_stale, interval, read_scores, spread
from pipelines.report.compare import say_selection
from pipelines.report.figures import draw_history, draw_trial
from pipelines.report.page import write_page
from pipelines.report.predictions import Predicted, read_predictions
from pipelines.report.wording import code, picture, plain


def write_report(params: Params, features: Where = paths.FEATURES) -> Path:
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
    history = gather_history(paths.MODELS, document.predictions)
    if not history:
        raise MissingFileError(f"No trained systems in '{paths.MODELS}'. Run 'train-fusion' first.")
    draw_history(history, figures / "history.png")
    finetunings = gather_finetunings(params)
    if finetunings:
        draw_history(finetunings, figures / "finetuning.png")
    stale = find_stale(scores, document)
    predicted = read_predictions(document, manifest)
    drawn = _draw_trials(predicted, stale, figures)
    path = paths.RESULTS / "report.md"
    page = _page(document, manifest, _untrained(params, features), stale, _finetuned(params, finetunings), drawn)
    write_file(path, page.encode())
    write_page(
        params, document, manifest, predicted, {"training": history, "fine-tuning": finetunings}, stale, features
    )
    return path


def _draw_trials(predicted: Predicted, stale: list[str], figures: Path) -> list[tuple[str, str]]:
    """Draw a figure for each trial of the evaluated partition; returns (trial id, file name)."""
    drawn = []
    for trial, predictions in predicted.trials:
        name = f"{encode_trial_id(trial.id)}.png"
        draw_trial(trial, predictions, predicted.targets, figures / name, stale)
        drawn.append((trial.id, name))
    return drawn


def _page(
    document: ScoresDocument,
    manifest: Manifest,
    untrained: list[str],
    stale: list[str],
    finetuned: list[str],
    drawn: list[tuple[str, str]],
) -> str:
    systems = document.systems
    scores = [
        *_table(systems, [*_CCC_COLUMNS, *_columns(document, by_target=False)], stale),
        "",
        *_table(systems, _columns(document, by_target=True), stale),
        "",
        *(["Without post-processing:", "", *_table(document.raw, _CCC_COLUMNS, stale), ""] if document.raw else []),
    ]
    lines = [
        "# Report",
        "",
        _say_scored(document, manifest, {trial_id for trial_id, _ in drawn}) if systems else _say_unscored(document),
        "",
        *untrained,
        *_say_stale(stale),
        *(scores if systems else []),
        *_say_matrix(),
        picture("Validation CCC by epoch", "figures", "history.png"),
        "",
        *finetuned,
    ]
    if drawn:
        lines += ["## Prediction against label", "", "Mean of the runs. Gaps in the label were not annotated.", ""]
        lines += _say_stale(stale)
    lines += [picture(f"Trial {trial_id}", "figures", name) for trial_id, name in drawn]
    return "\n".join(lines) + "\n"


def _say_matrix() -> list[str]:
    """What choosing among the systems of the matrix came to, where there is one."""
    said = say_selection(paths.MATRIX.scores)
    return [plain(said), ""] if said else []


def _say_scored(document: ScoresDocument, manifest: Manifest, names: set[str]) -> str:
    """What was scored, the trials of these names, and how to read the figures."""
    trials = [trial for trial in manifest.trials if trial.id in names]
    return (
        f"{counted(len(document.systems), 'system')} on partition {code(document.partition)}{_say_chosen(document)}: {counted(len(trials), 'trial')} of "
        f"{counted(len({trial.subject for trial in trials}), 'subject')}, "
        f"{counted(sum(trial.clock.num_frames for trial in trials), 'frame')}. "
        f"Each figure is {_count_runs(document)} over all labelled frames concatenated; "
        f"CCC with population moments. In brackets: {100 * document.level:g} % bootstrap interval of the mean, over trials; a single one has none. "
        f"Ensemble: {_say_ensemble(document)}, scored once."
        + f" Predictions passed {', '.join(document.postprocess)}, fitted on the validation trials."
        * bool(document.postprocess)
        + " Each network's epoch was chosen on the same trials, so the figures are on the high side."
        * (document.partition == "validation")
    )


def _say_unscored(document: ScoresDocument) -> str:
    return (
        f"{counted(len(document.predictions or ()), 'system')} on partition {code(document.partition)}, which has no labels: "
        f"predictions are in {code(str(paths.PREDICTIONS))}, and nothing was scored."
    )


def _say_chosen(document: ScoresDocument) -> str:
    """Say why this partition was chosen, if params.yaml does not name one."""
    if document.asked != AUTO:
        return ""
    has = "not every fold has" if document.partition == "validation" else "every fold has"
    return f" (chosen by {code(AUTO)}: {has} labelled test trials)"


def _say_ensemble(document: ScoresDocument) -> str:
    """Say whose predictions the ensemble averages."""
    count = document.best_folds
    if not count or document.partition != "test":
        return "the runs' mean prediction"
    which = f"the {count} folds" if count > 1 else "the fold"
    return f"the mean prediction of {which} with the highest validation CCC, of each by the best seed for each target"


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
    ("CCC", "ccc", True, lambda figures: f"{spread(figures)} {interval(figures)}".removesuffix(f" {figure(None)}")),
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


def _untrained(params: Params, features: Where) -> list[str]:
    """A warning that names feature sets with random weights, and the systems that read them."""
    readers: dict[str, list[str]] = {}
    for name, system in params.fusion.systems.items():
        for read in system.modalities.values():
            readers.setdefault(read, []).append(name)
    recipes = {name: Receipt.load(find_set(features, name).receipt).recipe for name in sorted(readers)}
    random = [name for name, recipe in recipes.items() if recipe.weights_sha256.startswith("random:")]
    if not random:
        return []
    affected = dict.fromkeys(system for name in random for system in readers[name])
    return [
        f"**Untrained features:** {', '.join(map(plain, random))} ran with random weights; figures of {', '.join(map(plain, affected))} "
        "only show that the pipeline works.",
        "",
    ]


def _finetuned(params: Params, history: list[Row]) -> list[str]:
    """A table of the fine-tunings, each with the epoch that it kept, and the figure of all their epochs."""
    if not history:
        return []
    runs: dict[tuple[str, int], list[Row]] = {}
    for row in history:
        runs.setdefault((row["system"], row["fold"]), []).append(row)
    targets = dict.fromkeys(key for row in history for key in row if key.startswith("ccc_"))
    rows = []
    for (name, fold), own in runs.items():
        best, run = best_epoch(own), params.finetune[name]
        trained = ", ".join(plain(run.modalities[modality]) for modality in run.tuned)
        figures = [figure(best.get(target)) for target in (*targets, "ccc")]
        rows.append([plain(name), str(fold), trained, run.model, f"{best['epoch']} (0 to {len(own) - 1})", *figures])
    header = [
        "fine-tuning",
        "fold",
        "trained from",
        "under",
        "epoch kept",
        *(plain(f"CCC {t[4:]}") for t in targets),
        "mean",
    ]
    return [
        "## Fine-tuned backbones",
        "",
        "Validation CCC of the fusion model that each was trained under, in the epoch that was kept. Feature sets with these weights "
        "stand in the tables above like any other.",
        "",
        *markdown_table(header, rows),
        "",
        picture("Validation CCC of fine-tuning by epoch", "figures", "finetuning.png"),
        "",
    ]
