"""Stage `evaluate`: predict a partition with every trained run and score it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CorpusError, MissingFileError
from cache.manifest import PARTITIONS, Manifest
from cache.names import encode_trial_id, require_known
from cache.receipt import write_text
from fusion.checkpoint import load
from fusion.inference import Prediction, predict
from fusion.metrics import CCC, PCC, RMSE
from pipelines import paths
from pipelines.console import progress
from pipelines.params import FusionParams
from pipelines.train_fusion import load_bank, seed_folder, torch_threads

METRICS: dict[str, type[CCC] | type[PCC] | type[RMSE]] = {"ccc": CCC, "pcc": PCC, "rmse": RMSE}


def evaluate_systems(params: FusionParams, partition: str) -> dict[str, Any]:
    """Score every system and seed on a partition.

    Writes one npz of mean predictions per system (trial → (T, C)), and returns, per system and target, the mean over
    seeds of CCC, PCC and RMSE over all labelled frames concatenated, with the standard deviation over seeds.

    Raises:
        UnknownNameError: if there is no such partition.
        CorpusError: if it has no labelled trial.
        MissingFileError: if a run was never trained.
    """
    require_known("partition", partition, PARTITIONS)
    manifest = Manifest.load(paths.CORPUS)
    trial_ids = [trial.id for trial in manifest.trials if trial.partition == partition and trial.labels is not None]
    if not trial_ids:
        raise CorpusError(
            f"The corpus has no labelled trial in partition '{partition}'. Set evaluate.partition in params.yaml."
        )
    document: dict[str, Any] = {"partition": partition, "seeds": len(params.seeds), "systems": {}}
    total = len(params.systems) * len(params.seeds)
    with torch_threads(params.threads), progress("evaluating", total) as advance:
        for name, system in params.systems.items():
            bank = load_bank(system, manifest, params.device)
            runs = []
            for seed in params.seeds:
                folder = seed_folder(paths.MODELS, name, seed)
                if not folder.is_dir():
                    raise MissingFileError(
                        f"System '{name}' was never trained with seed {seed}. Run 'train-fusion' first."
                    )
                runs.append(predict(load(folder), bank, trial_ids))
                advance(1, name)
            document["systems"][name] = _summary([_score(run, manifest) for run in runs])
            _save_predictions(paths.PREDICTIONS / f"{name}.npz", runs)
    write_text(paths.RESULTS / "metrics.json", json.dumps(document, indent=1) + "\n")
    return document


def _score(predictions: Sequence[Prediction], manifest: Manifest) -> dict[str, dict[str, float]]:
    """Metric → target → value over all labelled frames of the predicted trials, with the mean over targets."""
    import torch

    scores = {name: kind() for name, kind in METRICS.items()}
    targets = predictions[0].targets
    columns = [manifest.targets.index(target) for target in targets]
    for prediction in predictions:
        labels = manifest.trial(prediction.trial_id).labels
        assert labels is not None
        target = torch.from_numpy(labels[:, columns])
        for score in scores.values():
            score.update(torch.from_numpy(prediction.values), target, target.isfinite().all(dim=1))
    table = {}
    for name, score in scores.items():
        values = score.compute().tolist()
        table[name] = {**dict(zip(targets, values, strict=True)), "mean": sum(values) / len(values)}
    return table


def _summary(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Metric → target → mean and standard deviation over seeds (N - 1 form; 0 for one seed), and the best run."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for metric, targets in runs[0].items():
        summary[metric] = {}
        for target in targets:
            values = np.array([run[metric][target] for run in runs])
            best = values.min() if metric == "rmse" else values.max()
            summary[metric][target] = {
                "mean": round(float(values.mean()), 4),
                "std": round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 4),
                "best": round(float(best), 4),
            }
    return summary


def _save_predictions(path: Path, runs: Sequence[Sequence[Prediction]]) -> None:
    """One array per trial (T, C): the mean over seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    means = {
        encode_trial_id(same[0].trial_id): np.mean([p.values for p in same], axis=0) for same in zip(*runs, strict=True)
    }
    np.savez(path, allow_pickle=False, **means)
