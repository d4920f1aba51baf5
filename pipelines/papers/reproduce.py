"""Reproduce a table of a paper, with our figures beside the printed ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cache.corpus.folds import make_folds
from cache.errors import MissingFileError, SettingError
from cache.places.folders import Where, is_file
from cache.store.feature_sets import find_set
from pipelines.console.tables import markdown_table
from pipelines.papers.presets import Preset, SystemFigure, Table, read_preset, read_table
from pipelines.project import paths, scores
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params import Params, SystemParams
from pipelines.project.runs import Job, Row
from pipelines.stages.training import train_jobs

Counts = dict[tuple[str, int], tuple[int, int]]


def reproduce(
    paper: str,
    number: str,
    params: Callable[[], Params],
    corpus: str = "",
    features: Where = paths.FEATURES,
    redo: bool = False,
) -> dict[str, Any]:
    """Train what a table needs, or count parameters, and arrange our figures like the paper.

    Finished networks are kept in `work/reproduce/` and used again while settings, features, media, labels, folds and code are
    the same.

    Args:
        paper: name of a preset.
        number: number of the table.
        params: returns the project's settings; not called if no data is needed.
        corpus: name of the corpus, which must be the project's; by default the project's.
        features: folder or URL of all features.
        redo: whether to train finished networks again.

    Returns:
        JSON values: paper, table, source, caption, corpus, notes, columns, and rows of {group} or {cells}. A cell is
        the printed text or {paper, ours} and, if the print is wrong, `corrected`.

    Raises:
        UnknownNameError: if there is no such paper or table.
        SettingError: if the project has another corpus.
        MissingFileError: if a feature set was not extracted; the message names the command.
        UnknownNameError: if params.yaml has no feature set that a fine-tuning starts from.
        AvFusionError: whatever training raises.
    """
    preset = read_preset(paper)
    table = read_table(paper, number)
    head: dict[str, Any] = {"paper": paper, "table": number, "source": table.source, "caption": table.caption}
    if any(column.count for column in table.columns):
        counts = count_parameters(preset, table)
        counted = {
            (id(row), column.name): counts[wanted.system, row.unused_classes][column.count == "total"]
            for row, column, wanted in table.figures()
        }
        return head | {"corpus": None, "notes": table.notes, **_lay_out(table, counted)}
    project = params()
    name = project.corpus.name
    if corpus and corpus != name:
        raise SettingError(
            f"The project's corpus is '{name}', not '{corpus}'. Set corpus.name in params.yaml and run 'dvc repro'."
        )
    notes = list(table.notes)
    if name == "demo":
        preset = read_preset(paper, demo=True)
        notes.insert(0, _say_narrowed(paper, preset))
    wanted = {figure for _, _, figure in table.figures()}
    reached = train_figures(paper, preset, wanted, project, features, redo)
    ours = {(id(row), column.name): round(reached[figure], 3) for row, column, figure in table.figures()}
    return head | {"corpus": name, "notes": notes, **_lay_out(table, ours)}


def _say_narrowed(paper: str, preset: Preset) -> str:
    swaps = ", ".join(f"{mine} instead of {theirs}" for theirs, mine in preset.demo.backbones.items())
    count = len(preset.fusion.seeds)
    return (
        f"Demo corpus: these figures only show that the command runs and say nothing about the paper. Small models, few epochs, "
        f"{count} seed{'s' * (count > 1)}{', ' * bool(swaps)}{swaps} (section 'demo' of {paper}.yaml)."
    )


def _lay_out(table: Table, ours: Mapping[tuple[int, str], Any]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        if row.group:
            rows.append({"group": row.group})
            continue
        cells: list[Any] = []
        for column, printed in zip(table.columns, row.cells, strict=True):
            if column.target or column.fold is not None or column.count:
                cell = {"paper": printed, "ours": ours.get((id(row), column.name))}
                cells.append(cell | ({"corrected": row.corrected[column.name]} if column.name in row.corrected else {}))
            else:
                cells.append(printed)
        rows.append({"cells": cells})
    return {"columns": [column.name for column in table.columns], "rows": rows}


def count_parameters(preset: Preset, table: Table) -> Counts:
    """(system, unused classes) → number of parameters without and with encoders, by building untrained networks."""
    from torch import nn

    from extract.backbones.contract import load_backbone
    from fusion.training.building import build_model

    @functools.cache
    def encoder(name: str) -> tuple[int, int]:
        backbone = load_backbone(preset.extract[name].backbone if name in preset.extract else name, "random")
        return backbone.dim, _size(backbone)

    counts = {}
    for row, _, figure in table.figures():
        system = preset.named(figure.system)
        encoders = {modality: encoder(backbone) for modality, backbone in system.modalities.items()}
        dims = {modality: dim for modality, (dim, _) in encoders.items()}
        sequence = _size(build_model(system.model, dims, ("valence", "arousal"), system.settings))
        total = sequence + sum(size for _, size in encoders.values())
        if row.unused_classes:
            total += _size(nn.Linear(dims["visual"], row.unused_classes, device="meta"))
        counts[figure.system, row.unused_classes] = sequence, total
    return counts


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def train_figures(
    paper: str, preset: Preset, wanted: set[SystemFigure], project: Params, features: Where, redo: bool
) -> dict[SystemFigure, float]:
    """Validation CCC of each figure, the best or the mean over the preset's seeds."""
    folds: dict[str, set[int]] = {}
    for figure in wanted:
        folds.setdefault(figure.system, set()).add(figure.fold)
    mine = project.fusion
    fusion = replace(preset.fusion, device=mine.device, threads=mine.threads, workers=mine.workers, bank=mine.bank)
    preset = replace(preset, fusion=fusion)
    systems = {name: system for name, system in fusion.systems.items() if name in folds}
    finetunings = [name for name in preset.finetune if name in folds]
    check_features(systems, features)
    starts = [preset.finetune[name].modalities[each] for name in finetunings for each in preset.finetune[name].tuned]
    project.feature_sets(starts)
    rows = _train(paper, preset, folds, features, redo)
    for name in finetunings:
        rows += _finetune(paper, preset, name, folds[name], project, features, redo)
    runs: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in rows:
        reached = {key.removeprefix("ccc_"): value for key, value in row.items() if key.startswith("ccc_")}
        runs.setdefault((row["system"], row["fold"], row["seed"]), {}).update(reached)
    return {figure: _choose(figure, runs, preset.statistic) for figure in wanted}


def _train(paper: str, preset: Preset, wanted: Mapping[str, set[int]], features: Where, redo: bool) -> list[Row]:
    """The best epoch of each network of the preset's systems on the wanted folds."""
    manifest, fusion = load_corpus(), preset.fusion
    division = fusion.folds
    folds = {f.index: f for f in make_folds(manifest, division.kind, division.count, division.seed, division.disjoint)}
    jobs = [
        Job(name, system, folds[fold], config)
        for name, system in fusion.systems.items()
        for fold in sorted(wanted.get(name, ()))
        for seed in fusion.seeds
        for config in replace(system.train, seed=seed).networks()
    ]
    return train_jobs(jobs, fusion, manifest, paths.REPRODUCED / paper, features, redo) if jobs else []


def _finetune(
    paper: str, preset: Preset, name: str, folds: set[int], project: Params, features: Where, redo: bool
) -> list[Row]:
    """The best epoch of a fine-tuning of the preset for each fold and seed; it starts from the project's weights."""
    from pipelines.stages.finetuning import finetune_all

    number = min(folds) if len(folds) == 1 else -1
    fusion = replace(preset.fusion, folds=replace(preset.fusion.folds, number=number))
    runs = {f"{paper}-{name}-seed{seed}": replace(preset.finetune[name], seed=seed) for seed in fusion.seeds}
    params = replace(project, fusion=fusion, finetune={**project.finetune, **runs})
    rows = finetune_all(params, list(runs), features, redo, fusion.device, paths.REFINETUNED)
    return [{**row, "system": name} for row in rows]


def _choose(figure: SystemFigure, runs: Mapping[tuple[str, int, int], Mapping[str, float]], statistic: str) -> float:
    values = [
        sum(run.values()) / len(run) if figure.target == "mean" else run[figure.target]
        for (name, fold, _), run in runs.items()
        if (name, fold) == (figure.system, figure.fold)
    ]
    return max(values) if statistic == "best" else sum(values) / len(values)


def check_features(systems: Mapping[str, SystemParams], features: Where) -> None:
    """Check before training that all feature sets exist.

    Raises:
        MissingFileError: if not; names every missing one and the command that extracts them.
    """
    used = {name for system in systems.values() for name in system.modalities.values()}
    absent = sorted(name for name in used if not is_file(find_set(features, name).receipt))
    if absent:
        options = " ".join(f"--backbone {name}" for name in absent)
        raise MissingFileError(
            f"The table needs {', '.join(absent)}, which {'was' if len(absent) == 1 else 'were'} not extracted. "
            f"Put the weights in section 'extract' of params.yaml and run 'extract-features {options}'."
        )


def markdown(document: Mapping[str, Any]) -> str:
    """A reproduced table as Markdown: the paper's columns, with our figures beside them."""
    rows = [row["cells"] for row in document["rows"] if "cells" in row]
    ours = [
        any(isinstance(cells[i], dict) and cells[i]["ours"] is not None for cells in rows) for i in range(len(rows[0]))
    ]
    header: list[str] = []
    for name, has in zip(document["columns"], ours, strict=True):
        header += [name, "ours"] if has else [name]
    table: list[list[str]] = []
    for row in document["rows"]:
        if "group" in row:
            table.append([f"*{row['group']}*"] + [""] * (len(header) - 1))
            continue
        texts: list[str] = []
        for cell, has in zip(row["cells"], ours, strict=True):
            texts.append(_printed(cell) if isinstance(cell, dict) else cell)
            texts += [_figure(cell["ours"])] if has else []
        table.append(texts)
    lines = [f"**{document['source']}** {document['caption']}", ""]
    lines += [f"* {note}" for note in document["notes"]] + [""] * bool(document["notes"])
    return "\n".join(lines + markdown_table(header, table))


def _printed(cell: Mapping[str, Any]) -> str:
    return f"{cell['paper']} [meant {cell['corrected']}]" if "corrected" in cell else str(cell["paper"])


def _figure(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else scores.figure(value)
