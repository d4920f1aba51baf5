"""What a search leaves for people: the table of its trials, the best settings, and two pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cache.documents.documents import write_file
from pipelines.project import paths
from pipelines.project.params import FusionParams, SystemParams
from pipelines.search.pictures import draw_coordinates, draw_importance
from pipelines.search.records import FAILED, Trial
from pipelines.search.search import Outcome


def write_results(params: FusionParams, system: str, search: str, outcome: Outcome) -> Path | None:
    """Write `results/search/<name>`: trials.csv, best.yaml, coordinates.png and importance.png.

    Args:
        params: section `fusion`.
        system: name of the system that the search started from.
        search: name of the search.
        outcome: of the search.

    Returns:
        Path of best.yaml; None if every trial failed, and there is only the table.
    """
    folder = paths.RESULTS / "search" / search
    write_file(folder / "trials.csv", _table(outcome.trials).encode())
    for name in ("best.yaml", "coordinates.png", "importance.png"):  # of a search that this one replaces
        (folder / name).unlink(missing_ok=True)
    if outcome.best is None or outcome.system is None:
        return None
    path = folder / "best.yaml"
    write_file(path, _describe(params, system, outcome.best, outcome.system, len(outcome.trials)).encode())
    shown = [trial for trial in outcome.trials if trial.stage == outcome.stage and trial.state != FAILED]
    draw_coordinates(shown, outcome.domains, folder / "coordinates.png")
    draw_importance(shown, outcome.domains, folder / "importance.png")
    return path


def rows_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials as rows for people and JSON, in their order; None where a trial lacks what another one has."""
    rows: list[dict[str, Any]] = [
        {
            "trial": trial.name,
            "state": trial.state,
            "ccc": round(trial.ccc, 4) if trial.state != FAILED else None,
            **{f"ccc_{target}": round(value, 4) for target, value in trial.by_target.items()},
            "epoch": trial.epoch,
            "epochs": trial.epochs,
            "seconds": round(trial.seconds, 1),
            "network": trial.network[:12],
            **{_short(name): value for name, value in trial.point.items()},
            **({"reason": trial.reason} if trial.reason else {}),
        }
        for trial in trials
    ]
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def _short(name: str) -> str:
    """A parameter without its section."""
    return name.partition(".")[2] or name


def _table(trials: Sequence[Trial]) -> str:
    rows = rows_of(trials)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _describe(params: FusionParams, name: str, best: Trial, found: SystemParams, count: int) -> str:
    """The best settings in the form of params.yaml; those of training where they differ from the section's."""
    shared, own = asdict(params.train), {**asdict(found.train), "epochs": best.epochs}
    section = {
        "model": found.model,
        "modalities": found.modalities,
        "settings": _plain(asdict(found.settings)),
        "train": _plain({key: value for key, value in own.items() if value != shared[key] and key != "seed"}),
        **({"pca": found.pca} if found.pca else {}),
    }
    lines = [
        f"# Trial {best.name}, the best of {count}: validation CCC {best.ccc:.4f}, network {best.network[:12]}.",
        f"# 'train-fusion --system {name} --params THIS_FILE' trains it with all seeds; or copy it into params.yaml.",
    ]
    text = yaml.safe_dump({"fusion": {"systems": {name: section}}}, sort_keys=False, default_flow_style=None)
    return "\n".join([*lines, text])


def _plain(value: Any) -> Any:
    """Values as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
