"""All evaluated systems in one table, best first, with confidence intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

from cache.errors import MissingFileError
from pipelines.console.console import note
from pipelines.project.scores import Figures, ScoresDocument, figure, find_scores, interval, spread


def compare_systems(files: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per system that was evaluated.

    Args:
        files: `scores.json` of evaluations; missing ones and those without systems are skipped.

    Returns:
        Rows of rank, system, mean CCC over targets with standard deviation over runs and bootstrap interval over trials,
        the best run, the CCC of each target, with post-processing also the mean CCC without it (`raw`), the scored partition, and `metrics`: title, digits and mean of the other brief
        metrics. Sorted by mean CCC; systems without one come last. None if there were no labels, which a note says.

    Raises:
        MissingFileError: if nothing was evaluated yet.
        SettingError: if a file is damaged.
    """
    documents = [document for document in map(find_scores, files) if document is not None]
    if not documents:
        raise MissingFileError(f"No systems in '{files[0]}', or no such file. Run 'evaluate-fusion' first.")
    if not any(document.systems for document in documents):
        note(
            f"Nothing to compare: partition '{documents[0].partition}' has no labels and was only predicted. For scores, run "
            "'avfusion evaluate --partition validation', or set evaluate.partition."
        )
    rows = [
        {
            **_row(name, scores["ccc"]),
            **_raw(name, document),
            "metrics": _others(scores, document),
            "partition": document.partition,
        }
        for document in documents
        for name, scores in document.systems.items()
    ]
    rows.sort(key=lambda row: (isnan(row["ccc"]), -row["ccc"] if not isnan(row["ccc"]) else 0.0, row["system"]))
    return [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]


def say_selection(path: Path) -> str:
    """What choosing the best of the systems in a file of scores by validation came to, in a sentence; "" if that is not known.

    Raises:
        SettingError: if the file is damaged.
    """
    document = find_scores(path)
    found = document.selection if document is not None else None
    if not found:
        return ""
    shown = {key: figure(value) for key, value in found.items() if isinstance(value, float)}
    luck = shown["luck"] if float(found["luck"] or 0) > 0 else "none"
    return (
        f"Of {found['systems']} systems, '{found['best']}' has the best validation CCC, {shown['validation']}; {luck} of it is "
        f"expected to be luck, from having looked at so many (in {100 * float(found['wins'] or 0):.0f} % of resamples of the validation "
        f"trials it is the best, too). On the test partition it has {shown['test']}, a drop of {shown['drop']}; the typical system drops by "
        f"{shown['typical_drop']}."
    )


def _row(name: str, ccc: Mapping[str, Figures]) -> dict[str, Any]:
    targets = [target for target in ccc if target != "mean"]
    means = [_number(ccc[target], "mean") for target in targets]
    total = ccc["mean"] if "mean" in ccc else {"mean": sum(means) / len(means)}
    figures = {key: _number(total, key) for key in ("std", "low", "high", "best")}
    each = {f"ccc_{target}": value for target, value in zip(targets, means, strict=True)}
    return {"system": name, "ccc": _number(total, "mean"), **figures, **each}


def _raw(name: str, document: ScoresDocument) -> dict[str, float]:
    """The mean CCC without post-processing, if there is any."""
    own = (document.raw or {}).get(name)
    return {} if own is None else {"raw": _number(own["ccc"]["mean"], "mean")}


def _others(scores: Mapping[str, Mapping[str, Figures]], document: ScoresDocument) -> dict[str, Any]:
    """The metrics beside the CCC: title, digits, and mean over targets and runs."""
    return {
        name: {"title": metric.title, "digits": metric.digits, "mean": _number(scores[name]["mean"], "mean")}
        for name, metric in (document.metrics or {}).items()
        if metric.brief and name != "ccc"
    }


def _number(figures: Figures, key: str) -> float:
    value = figures.get(key)
    return nan if value is None else float(value)


def table_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows for people."""
    targets = dict.fromkeys(key for row in rows for key in row if key.startswith("ccc_"))
    others = {name: metric["title"] for row in rows for name, metric in row["metrics"].items()}
    return [
        {
            "#": str(row["rank"]),
            "system": row["system"],
            "CCC": spread({"mean": row["ccc"], "std": row["std"]}),
            **({"raw CCC": figure(row["raw"]) if "raw" in row else ""} if any("raw" in each for each in rows) else {}),
            "interval": interval(row),
            "best": figure(row["best"]),
            **{key.removeprefix("ccc_"): figure(row[key]) if key in row else "" for key in targets},
            **{title: _cell(row["metrics"].get(name)) for name, title in others.items()},
            "partition": row["partition"],
        }
        for row in rows
    ]


def _cell(metric: Mapping[str, Any] | None) -> str:
    return "" if metric is None else figure(metric["mean"], metric["digits"])


def score_rows(document: Mapping[str, Any], names: Collection[str]) -> list[dict[str, str]]:
    """The figures of some systems, in `results/scores.json`, for people; a dash for those that were only predicted."""
    unscored = [name for name in document["predictions"] if name not in document["systems"]]
    return [{"system": name, "scores": figure(None)} for name in unscored] or [
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
        if system in names
    ]
