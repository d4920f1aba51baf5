"""Stage `evaluate`: predict a part of each fold with every trained run, and score the runs and their ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.folds import Fold, load_folds
from cache.corpus.manifest import Manifest
from cache.documents.arrays import format_arrays
from cache.documents.documents import digest_bytes, write_document, write_file
from cache.errors import CorpusError, FingerprintError, MissingFileError, SettingError
from cache.names import encode_trial_id
from cache.places.folders import Where, remove_file
from cache.targets import MEAN, Target, names_of
from fusion.scores.intervals import Measured, Metrics, bootstrap, measure, score
from fusion.scores.metric import Metric, load_metrics
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import Prediction, merge, predict
from pipelines.console.console import progress
from pipelines.console.escaping import as_json
from pipelines.project import paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params import AUTO, EvaluateParams, FusionParams, SystemParams
from pipelines.project.runs import digest_runs, load_networks, run_folder
from pipelines.project.scores import Figures, MetricPart, ScoresDocument
from pipelines.stages.training import Banks, choose_folds, find_lacking, refuse_leaks, say_lacking, torch_threads

SYSTEMS_HEADER = "system,target,ccc"  # of the table for `dvc plots`
Scores = dict[str, dict[str, float]]  # metric → target, or "mean" over targets → value


def evaluate_systems(
    params: FusionParams,
    evaluate: EvaluateParams,
    outputs: paths.Outputs = paths.PROJECT,
    features: Where = paths.FEATURES,
) -> dict[str, Any]:
    """Score every system on a part of the folds that it was trained on.

    Writes `results/scores.json` (everything), `results/metrics/<system>.json` (mean CCC, for `dvc metrics`),
    `results/systems.csv` (CCC, for `dvc plots`), and one npz per system with the ensemble's predictions (trial → (T, C)), and
    another one with those of the test trials if `best_folds` says so.

    Returns:
        The content of `scores.json`: for each system, metric and target (and "mean", over targets)

        * `mean`, `std`, `best`: over runs (folds and seeds), each over all its labelled frames concatenated; `std`
          is None for a single run;
        * `low`, `high`: bootstrap interval of `mean` over trials;
        * `ensemble`, `ensemble_low`, `ensemble_high`: the same for the runs' mean prediction, scored once.

        Also `runs`, one row per run with its CCC; `metrics`, how tables show each of them; and the digests of the networks and
        of the predictions.

    Raises:
        CorpusError: if a fold has no labelled trial in the partition.
        SettingError: if there are no such best folds.
        MissingFileError: if a run was never trained.
        FingerprintError: if it was trained with settings or on folds other than those in `params`.
    """
    manifest = load_corpus()
    path = outputs.models / "folds.json"
    if not path.is_file():
        raise MissingFileError(f"No trained systems in '{outputs.models}'. Run 'train-fusion' first.")
    folds = load_folds(path, manifest)
    if folds != choose_folds(params.folds, manifest):
        raise FingerprintError(
            f"The networks in '{outputs.models}' were trained on folds other than those of fusion.folds in params.yaml. "
            "Run 'train-fusion' again."
        )
    partition = choose_partition(evaluate.partition, folds, manifest)
    _check_best_folds(evaluate.best_folds, folds)
    refuse_leaks(params.systems, folds, features)
    metrics = load_metrics()
    document: dict[str, Any] = {
        "metrics": {
            name: {key: getattr(kind, key) for key in MetricPart.model_fields} for name, kind in metrics.items()
        },
        "partition": partition,
        "asked": evaluate.partition,
        "best_folds": evaluate.best_folds,
        "seeds": len(params.seeds),
        "folds": [fold.index for fold in folds],
        "level": evaluate.level,
        "networks": {name: digest_runs(outputs.models, name) for name in params.systems},
        "predictions": {},
        "systems": {},
        "runs": [],
    }
    total = len(params.systems) * len(params.seeds) * len(folds)
    with torch_threads(params.threads), progress("evaluating", total) as advance:
        for name, system in params.systems.items():
            banks = Banks(system, manifest, params, features)
            runs = _predict_runs(
                name, system, params, evaluate, folds, partition, manifest, banks, outputs.models, advance
            )
            ensemble = merge(list(runs.values()))
            best = _predict_by_best(name, params.seeds, folds, evaluate, manifest, banks, outputs)
            if best and partition == "test":
                known = {prediction.trial_id for prediction in ensemble}
                ensemble = [prediction for prediction in best if prediction.trial_id in known]
            measured, together = (
                [measure(_pairs(run, manifest), metrics) for run in several] for several in (runs.values(), [ensemble])
            )
            targets = [manifest.targets[manifest.names.index(target)] for target in ensemble[0].targets]
            scored = [_score(run, targets, metrics) for run in measured]
            document["systems"][name] = _summary(scored, measured, together[0], targets, metrics, evaluate)
            document["runs"] += [
                {"system": name, "fold": fold, "seed": seed, **_flat(scores["ccc"])}
                for (fold, seed), scores in zip(runs, scored, strict=True)
            ]
            document["predictions"][name] = _save_predictions(outputs.predictions / f"{name}.npz", ensemble)
    document = as_json(document)
    write_document(outputs.scores, ScoresDocument, document)
    _write_metrics(document, outputs)
    return document


def choose_partition(asked: str, folds: Sequence[Fold], manifest: Manifest) -> str:
    """The partition to score.

    Args:
        asked: train, validation, test, or auto: test if every fold has labelled trials in it, else validation.
        folds: the trained folds.
        manifest: the corpus.

    Raises:
        CorpusError: if a fold has no labelled trial in the partition.
    """
    lacking = find_lacking(folds, manifest)
    chosen = asked if asked != AUTO else "validation" if lacking["test"] else "test"
    if lacking[chosen]:
        raise CorpusError(say_lacking(chosen, lacking))
    return chosen


def _refuse_stale(
    name: str, system: SystemParams, params: FusionParams, seed: int, networks: Sequence[Checkpoint]
) -> None:
    """Raise if networks were trained with settings other than those in `params.yaml`."""
    expected = replace(system.train, seed=seed).networks()
    for network in networks:
        model = network.model
        if model.name != system.model or model.settings != asdict(system.settings) or network.training not in expected:
            raise FingerprintError(
                f"System '{name}' was trained with settings other than those now in params.yaml (seed {seed}). "
                f"Run 'train-fusion --system {name}' again."
            )


def _predict_runs(
    name: str,
    system: SystemParams,
    params: FusionParams,
    evaluate: EvaluateParams,
    folds: Sequence[Fold],
    partition: str,
    manifest: Manifest,
    banks: Banks,
    models: Path,
    advance: Any,
) -> dict[tuple[int, int], list[Prediction]]:
    """(fold, seed) → predictions of a system's run."""
    labelled = {trial.id for trial in manifest.trials if trial.labels is not None}
    runs = {}
    for fold in folds:
        bank = banks.of_fold(fold)
        trial_ids = [trial_id for trial_id in fold.part(partition) if trial_id in labelled]
        for seed in params.seeds:
            folder = run_folder(models, name, fold.index, seed)
            if not folder.is_dir():
                raise MissingFileError(
                    f"System '{name}' was never trained on fold {fold.index} with seed {seed}. Run 'train-fusion' first."
                )
            networks: Sequence[Checkpoint] = load_networks(folder)
            _refuse_stale(name, system, params, seed, networks)
            networks = [network.read_in(evaluate.window, evaluate.hop) for network in networks]
            predictions = merge([predict(network, bank, trial_ids) for network in networks])
            runs[fold.index, seed] = [_order(prediction, manifest.names) for prediction in predictions]
            advance(1, name)
    return runs


def _check_best_folds(count: int, folds: Sequence[Fold]) -> None:
    """Check the setting `best_folds`.

    Raises:
        SettingError: if there are fewer folds, or their test trials are none or differ.
    """
    if not count:
        return
    text = f"evaluate.best_folds is {count}, "
    if count > len(folds):
        raise SettingError(
            f"{text}expected at most {len(folds)}, the number of trained folds. Change it, or set fusion.folds.number to -1."
        )
    if not folds[0].test or any(set(fold.test) != set(folds[0].test) for fold in folds):
        raise SettingError(
            f"{text}expected folds with the same test trials, but those of fold 0 are {len(folds[0].test)} and not those of all "
            "others. Set it to 0, or fusion.folds.kind to rotated."
        )


def _predict_by_best(
    name: str,
    seeds: Sequence[int],
    folds: Sequence[Fold],
    evaluate: EvaluateParams,
    manifest: Manifest,
    banks: Banks,
    outputs: paths.Outputs,
) -> list[Prediction]:
    """The mean prediction of the test trials by the best folds, of each by its best network for each target; also saved."""
    path = outputs.predictions / "test" / f"{name}.npz"
    if not evaluate.best_folds:
        remove_file(path)
        return []
    best: dict[tuple[int, str], tuple[float, Checkpoint]] = {}
    for fold in folds:
        for seed in seeds:
            for network in load_networks(run_folder(outputs.models, name, fold.index, seed)):
                for target, ccc in network.validation.items():
                    key = fold.index, target
                    if key not in best or ccc > best[key][0]:
                        best[key] = ccc, network
    targets = dict.fromkeys(target for _, target in best)
    worth = {fold.index: sum(best[fold.index, target][0] for target in targets) for fold in folds}
    runs = []
    for fold in sorted(folds, key=lambda fold: worth[fold.index], reverse=True)[: evaluate.best_folds]:
        for target in targets:
            network = best[fold.index, target][1].read_in(evaluate.window, evaluate.hop)
            predictions = predict(network, banks.of_fold(fold), fold.test)
            runs.append([_order(prediction, (target,)) for prediction in predictions])
    found = [_order(prediction, manifest.names) for prediction in merge(runs)]
    _save_predictions(path, found)
    return found


def _order(prediction: Prediction, targets: Sequence[str]) -> Prediction:
    """The prediction of these targets only, in this order."""
    ordered = tuple(target for target in targets if target in prediction.targets)
    columns = [prediction.targets.index(target) for target in ordered]
    return replace(prediction, values=prediction.values[:, columns], targets=ordered)


def _pairs(
    predictions: Sequence[Prediction], manifest: Manifest
) -> dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Trial id → prediction and label (T, C) of its labelled frames, relative to the middle of each target's range.

    Only the agreement of signs depends on where the middle is. Labels are nan where only other targets have one.
    """
    columns = [manifest.names.index(target) for target in predictions[0].targets]
    middle = np.array([manifest.targets[column].middle for column in columns], np.float32)
    pairs = {}
    for prediction in predictions:
        labels = manifest.trial(prediction.trial_id).labels
        assert labels is not None
        own = labels[:, columns]
        counted = np.isfinite(own).any(axis=1)
        pairs[prediction.trial_id] = prediction.values[counted] - middle, own[counted] - middle
    return pairs


def _score(measured: Measured, targets: Sequence[Target], metrics: Metrics) -> Scores:
    """Each metric over all labelled frames of a run, and its mean over targets."""
    table = {}
    for name, figures in score(measured, metrics).items():
        values = figures.tolist()
        mean = nan if _is_mixed(metrics[name], targets) else sum(values) / len(values)
        table[name] = {**dict(zip(names_of(targets), values, strict=True)), MEAN: mean}
    return table


def _is_mixed(metric: type[Metric], targets: Sequence[Target]) -> bool:
    """Whether a mean over targets would mix units."""
    return metric.in_unit and len({target.half for target in targets}) > 1


def _summary(
    scored: Sequence[Scores],
    measured: Sequence[Measured],
    ensemble: Measured,
    targets: Sequence[Target],
    metrics: Metrics,
    evaluate: EvaluateParams,
) -> dict[str, dict[str, Figures]]:
    """Metric → target → figures; the standard deviation in its N - 1 form, nan for one run."""
    options = evaluate.draws, evaluate.level, evaluate.seed
    intervals = bootstrap(measured, metrics, *options)
    around = bootstrap([ensemble], metrics, *options)
    together = _score(ensemble, targets, metrics)
    summary: dict[str, dict[str, Figures]] = {}
    for metric, own in together.items():
        summary[metric] = {}
        for column, target in enumerate(own):
            values = np.array([run[metric][target] for run in scored])
            figures = {
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else nan,
                "best": values.max() if metrics[metric].higher_is_better else values.min(),
                "low": intervals[metric][0, column],
                "high": intervals[metric][1, column],
                "ensemble": own[target],
                "ensemble_low": around[metric][0, column],
                "ensemble_high": around[metric][1, column],
            }
            known = not (target == MEAN and _is_mixed(metrics[metric], targets))
            summary[metric][target] = {key: round(float(value), 4) if known else nan for key, value in figures.items()}
    return summary


def _flat(ccc: Mapping[str, float]) -> dict[str, float]:
    return {"ccc" if target == "mean" else f"ccc_{target}": round(value, 4) for target, value in ccc.items()}


def _write_metrics(document: Mapping[str, Any], outputs: paths.Outputs) -> None:
    """A file with two figures per system, for a row each in `dvc metrics show`, and a table of all systems for `dvc plots`."""
    lines, files = [SYSTEMS_HEADER], {}
    for name, scores in document["systems"].items():
        ccc = scores["ccc"]
        figures = {"ccc": ccc["mean"]["mean"], "ccc_std": ccc["mean"]["std"]}
        known = {key: value for key, value in figures.items() if value is not None}
        files[f"{name}.json"] = json.dumps(known, indent=1) + "\n"
        lines += [
            f"{name},{target},{figures['mean']}" for target, figures in ccc.items() if figures["mean"] is not None
        ]
    write_file(outputs.systems, ("\n".join(lines) + "\n").encode())
    if outputs.metrics is not None:
        for name, text in files.items():
            write_file(outputs.metrics / name, text.encode())
        for path in outputs.metrics.glob("*.json"):
            if path.name not in files:
                path.unlink()


def _save_predictions(path: Path, ensemble: Sequence[Prediction]) -> str:
    """Save one array (T, C) per trial; returns the sha256 of the file."""
    arrays = {encode_trial_id(prediction.trial_id): prediction.values.astype("<f4") for prediction in ensemble}
    content = format_arrays(arrays)
    write_file(path, content)
    return digest_bytes(content)
