"""Stage `evaluate`: predict a part of each fold with every trained run, and score the runs and their ensemble where there are labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.folds import Fold, load_folds
from cache.corpus.manifest import Manifest
from cache.documents.arrays import format_arrays
from cache.documents.documents import digest_bytes, write_document, write_file
from cache.errors import FingerprintError, MissingFileError, SettingError
from cache.names import encode_trial_id, require_known
from cache.places.folders import Where, remove_file
from extract.engine.devices import torch_threads
from fusion.scores.intervals import Metrics, measure
from fusion.scores.metric import load_metrics
from fusion.scores.summary import Summary, summarise
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import Prediction, merge, predict
from pipelines.console import trackers
from pipelines.console.console import note, progress
from pipelines.console.escaping import as_json
from pipelines.ensembles.members import Member, keep_best
from pipelines.project import paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params import EvaluateParams, FusionParams, SystemParams
from pipelines.project.partitions import choose_partition, find_lacking, say_unscored
from pipelines.project.runs import Row, digest_runs, load_networks, run_folder
from pipelines.project.scores import MetricPart, ScoresDocument, join_scores
from pipelines.training.features import Banks
from pipelines.training.folds import choose_folds, refuse_leaks

SYSTEMS_HEADER = "system,target,ccc"  # of the table for `dvc plots`
Runs = dict[tuple[int, int], list[Prediction]]  # (fold, seed) → predictions


def evaluate_systems(
    params: FusionParams,
    evaluate: EvaluateParams,
    outputs: paths.Outputs = paths.PROJECT,
    features: Where = paths.FEATURES,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Predict a part of the folds that each system was trained on, and score the trials that have labels.

    Writes `results/scores.json` (everything), `results/metrics/<system>.json` (mean CCC, for `dvc metrics`),
    `results/systems.csv` (CCC, for `dvc plots`), and one npz per system with the ensemble's predictions (trial → (T, C)) of all
    trials, labelled or not, and another one with those of the test trials if `best_folds` says so.

    Args:
        params: section `fusion`.
        evaluate: section `evaluate`.
        outputs: paths of networks and results.
        features: folder or URL of all features.
        only: names of the systems to evaluate, all by default; figures of the others are kept if they were evaluated in the
            same way.

    Returns:
        The content of `scores.json`: for each system, metric and target (and "mean", over targets)

        * `mean`, `std`, `best`: over runs (folds and seeds), each over all its labelled frames concatenated; `std`
            is None for a single run;
        * `low`, `high`: bootstrap interval of `mean` over trials;
        * `ensemble`, `ensemble_low`, `ensemble_high`: the same for the runs' mean prediction, scored once.

        Without any labels there are none. With post-processing they come after it, and `raw` has those before. Also `runs`, one row per scored run with its CCC; `metrics`, how tables show each of
        them; and the digests of the networks and of the predictions.

    Raises:
        UnknownNameError: if a system of `only` is not in `params.yaml`.
        CorpusError: if a fold has no trial in the partition.
        SettingError: if there are no such best folds.
        MissingFileError: if a run was never trained.
        FingerprintError: if it was trained with settings or on folds other than those in `params`.
    """
    for name in only:
        require_known("system in section 'fusion' of params.yaml", name, params.systems)
    manifest = load_corpus()
    folds = _load_folds(params, outputs, manifest)
    partition = choose_partition(evaluate.partition, folds, manifest)
    _check_best_folds(evaluate.best_folds, folds)
    systems = {name: system for name, system in params.systems.items() if name in (only or params.systems)}
    refuse_leaks(systems, folds, manifest, features)
    unscored = find_lacking(folds, manifest)[partition]
    if unscored:
        note(say_unscored(partition, folds, manifest))
    metrics = load_metrics()
    trackers.prepare(params.tracker)
    scored = [fold.index for fold in folds if fold.index not in unscored]
    document: dict[str, Any] = {
        "metrics": {
            name: {key: getattr(kind, key) for key in MetricPart.model_fields} for name, kind in metrics.items()
        },
        "partition": partition,
        **_how(evaluate),
        "seeds": len(params.seeds),
        "folds": scored or [fold.index for fold in folds],
        "networks": {name: digest_runs(outputs.models, name) for name in systems},
        "predictions": {},
        "systems": {},
        "raw": {},
        "runs": [],
    }
    total = len(systems) * len(params.seeds) * len(folds) * (2 if evaluate.postprocess and scored else 1)
    with torch_threads(params.threads), progress("evaluating", total) as advance:
        for name, system in systems.items():
            banks = Banks(system, manifest, params, features)
            stage = _System(name, system, params, evaluate, folds, partition, manifest, banks, outputs)
            if evaluate.postprocess and scored:
                document["raw"][name] = stage.raw().run(scored, metrics, advance)[1]
            ensemble, summary, rows = stage.run(scored, metrics, advance)
            document["predictions"][name] = _save_predictions(outputs.predictions / f"{name}.npz", ensemble)
            if scored:
                document["systems"][name] = summary
                document["runs"] += rows
    document = as_json(document)
    if only:
        document = join_scores(outputs.scores, document, list(params.systems))
    write_document(outputs.scores, ScoresDocument, document)
    _write_metrics(document, outputs)
    for name in systems.keys() & document["systems"].keys():
        settings = {"partition": partition, "system": asdict(systems[name])}
        trackers.conclude(params.tracker, f"{name}/evaluation", settings, document["systems"][name])
    return document


def _how(evaluate: EvaluateParams) -> dict[str, Any]:
    """What `scores.json` keeps of the settings of evaluation."""
    return {
        "asked": evaluate.partition,
        "best_folds": evaluate.best_folds,
        "window": evaluate.window,
        "hop": evaluate.hop,
        "postprocess": list(evaluate.postprocess),
        "level": evaluate.level,
    }


def _load_folds(params: FusionParams, outputs: paths.Outputs, manifest: Manifest) -> tuple[Fold, ...]:
    """The folds that the networks were trained on, which must be those of the settings."""
    path = outputs.models / "folds.json"
    if not path.is_file():
        raise MissingFileError(f"No trained systems in '{outputs.models}'. Run 'train-fusion' first.")
    folds = load_folds(path, manifest)
    if folds != choose_folds(params.folds, manifest):
        raise FingerprintError(
            f"The networks in '{outputs.models}' were trained on folds other than those of fusion.folds in params.yaml. "
            "Run 'train-fusion' again."
        )
    return folds


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


@dataclass(frozen=True)
class _System:
    """A system to evaluate: its settings, and where its networks and features are."""

    name: str
    system: SystemParams
    params: FusionParams
    evaluate: EvaluateParams
    folds: Sequence[Fold]
    partition: str
    manifest: Manifest
    banks: Banks
    outputs: paths.Outputs

    def raw(self) -> _System:
        """The same system without post-processing."""
        return replace(self, evaluate=replace(self.evaluate, postprocess=()))

    def run(
        self, scored: Collection[int], metrics: Metrics, advance: Callable[[int, str], None]
    ) -> tuple[list[Prediction], Summary, list[Row]]:
        """Predict, and score the runs on folds with labels.

        Returns:
            The ensemble's predictions, the figures of the system, and a row with the CCC of each run.
        """
        runs = self._predict_runs(advance)
        best = self._predict_by_best()
        ensemble = best if best and self.partition == "test" else merge(list(runs.values()))
        labelled = {key: run for key, run in runs.items() if key[0] in scored}
        return ensemble, *(self._score(labelled, ensemble, metrics) if labelled else ({}, []))

    def _load(self, fold: Fold, seed: int) -> list[Checkpoint]:
        """The networks of a run, which make their predictions as section `evaluate` says.

        Raises:
            MissingFileError: if it was never trained.
            FingerprintError: if it was trained with settings other than those in `params.yaml`.
        """
        folder = run_folder(self.outputs.models, self.name, fold.index, seed)
        if not folder.is_dir():
            raise MissingFileError(
                f"System '{self.name}' was never trained on fold {fold.index} with seed {seed}. Run 'train-fusion' first."
            )
        networks = load_networks(folder)
        expected, settings = replace(self.system.train, seed=seed).networks(), asdict(self.system.settings)
        for network in networks:
            model = network.model
            if (model.name, model.settings) != (self.system.model, settings) or network.training not in expected:
                raise FingerprintError(
                    f"System '{self.name}' was trained with settings other than those now in params.yaml (seed {seed}). "
                    f"Run 'train-fusion --system {self.name}' again."
                )
        return [network.answering(*self.evaluate.answers) for network in networks]

    def _predict_runs(self, advance: Callable[[int, str], None]) -> Runs:
        """All trials of the partition by every run."""
        runs = {}
        for fold in self.folds:
            bank = self.banks.of_fold(fold)
            for seed in self.params.seeds:
                networks = self._load(fold, seed)
                predictions = merge([predict(network, bank, fold.part(self.partition)) for network in networks])
                runs[fold.index, seed] = [_order(prediction, self.manifest.names) for prediction in predictions]
                advance(1, self.name)
        return runs

    def _predict_by_best(self) -> list[Prediction]:
        """The mean prediction of the test trials by the best folds, of each by its best network for each target; also saved."""
        path = self.outputs.predictions / "test" / f"{self.name}.npz"
        if not self.evaluate.best_folds:
            remove_file(path)
            return []
        members = [
            Member.of(self.name, network)
            for fold in self.folds
            for seed in self.params.seeds
            for network in self._load(fold, seed)
        ]
        runs = []
        for member in keep_best(members, self.evaluate.best_folds):
            fold = member.network.fold
            predictions = predict(member.network, self.banks.of_fold(fold), fold.test)
            runs.append([_order(prediction, member.targets) for prediction in predictions])
        found = [_order(prediction, self.manifest.names) for prediction in merge(runs)]
        _save_predictions(path, found)
        return found

    def _score(self, runs: Runs, ensemble: Sequence[Prediction], metrics: Metrics) -> tuple[Summary, list[Row]]:
        """The figures of the system, and a row with the CCC of each run."""
        manifest, evaluate = self.manifest, self.evaluate
        measured, (together,) = (
            [measure(_pairs(run, manifest), metrics) for run in several] for several in (runs.values(), [ensemble])
        )
        targets = [manifest.targets[manifest.names.index(target)] for target in ensemble[0].targets]
        summary, scored = summarise(measured, together, targets, metrics, evaluate.draws, evaluate.level, evaluate.seed)
        return summary, [
            {"system": self.name, "fold": fold, "seed": seed, **_flat(scores["ccc"])}
            for (fold, seed), scores in zip(runs, scored, strict=True)
        ]


def _order(prediction: Prediction, targets: Sequence[str]) -> Prediction:
    """The prediction of these targets only, in this order."""
    ordered = tuple(target for target in targets if target in prediction.targets)
    columns = [prediction.targets.index(target) for target in ordered]
    return replace(prediction, values=prediction.values[:, columns], targets=ordered)


def _pairs(
    predictions: Sequence[Prediction], manifest: Manifest
) -> dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Labelled trial's id → prediction and label (T, C) of its labelled frames, relative to the middle of each target's range.

    Only the agreement of signs depends on where the middle is. Labels are nan where only other targets have one.
    """
    columns = [manifest.names.index(target) for target in predictions[0].targets]
    middle = np.array([manifest.targets[column].middle for column in columns], np.float32)
    pairs = {}
    for prediction in predictions:
        labels = manifest.trial(prediction.trial_id).labels
        if labels is None:
            continue
        own = labels[:, columns]
        counted = np.isfinite(own).any(axis=1)
        pairs[prediction.trial_id] = prediction.values[counted] - middle, own[counted] - middle
    return pairs


def _flat(ccc: Mapping[str, float]) -> dict[str, float]:
    return {"ccc" if target == "mean" else f"ccc_{target}": round(value, 4) for target, value in ccc.items()}


def _write_metrics(document: Mapping[str, Any], outputs: paths.Outputs) -> None:
    """A file with two figures per system, for a row each in `dvc metrics show`, and a table of all systems for `dvc plots`."""
    lines, files = [SYSTEMS_HEADER], {}
    for name in document["predictions"]:
        ccc = document["systems"].get(name, {}).get("ccc", {})
        figures = {"ccc": ccc["mean"]["mean"], "ccc_std": ccc["mean"]["std"]} if ccc else {}
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
