"""An evaluated project whose names are attacks, with faces and gaps, and its page."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import simplejpeg

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.documents.arrays import format_arrays
from cache.documents.documents import digest_bytes, write_document, write_file
from cache.names import encode_trial_id
from cache.recipe import Provenance, Recipe
from cache.store.feature_sets import locate_set
from cache.store.receipt import Receipt
from cache.store.store import FeatureStore
from cache.targets import Target
from pipelines.project import paths
from pipelines.project.params import CorpusParams, FusionParams, Params, SystemParams
from pipelines.project.runs import save_run
from pipelines.project.scores import ScoresDocument
from pipelines.report.markdown import write_report

TRIALS = ("<img src=x onerror=alert(1)>", "b\"'</script><script>alert(2)</script>{{ 7 * 7 }}", "plain-1")  # sorted
SYSTEMS = ("fused", "<b onmouseover=alert(3)>x</b>")
LENGTH = 200  # frames
GAP = (80, 120)  # frames without a face


class Evaluated(NamedTuple):
    """A project and its page."""

    folder: Path
    page: Path
    params: Params
    trials: tuple[str, ...] = TRIALS
    systems: tuple[str, ...] = SYSTEMS


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The project of `TRIALS` and `SYSTEMS`."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_corpus(folder)
        _write_features()
        _write_results()
        params = Params(
            CorpusParams(),
            FusionParams([0, 1], dict.fromkeys(SYSTEMS, SystemParams("rnn", {"visual": "face"}))),
        )
        write_report(params)
    return Evaluated(folder, folder / "results/report.html", params)


def _labels(trial: int) -> np.ndarray:
    times = np.arange(LENGTH) / 20
    labels = np.stack([np.sin(times + trial), np.cos(times * (1 + trial))], axis=1).astype(np.float32)
    labels[:10] = np.nan
    return labels


def _write_corpus(folder: Path) -> None:
    trials = []
    for number, name in enumerate(TRIALS):
        for frame in range(0, LENGTH, 20):
            picture = np.full((48, 48, 3), 40 + frame, np.uint8)
            write_file(folder / f"crops{number}/{frame + 1:05d}.jpg", simplejpeg.encode_jpeg(picture, 90))
        clock = FrameClock(Fraction(25), LENGTH)
        trials.append(Trial(name, f"s&<i>{number % 2}", "test", clock, {"crops": f"crops{number}"}, _labels(number)))
    Manifest(folder, tuple(trials), (Target("valence"), Target("arousal"))).save(paths.CORPUS)


def _write_features() -> None:
    place = locate_set(paths.FEATURES, "face")
    recipe = Recipe(
        "mobilefacenet",
        "visual",
        4,
        weights_sha256="ab" * 32,
        provenance=Provenance("w<i>", "https://example.org/w", "MIT & more"),
    )
    store = FeatureStore.create(place.store, recipe)
    valid = np.ones(LENGTH, bool)
    valid[slice(*GAP)] = False
    for name in TRIALS:
        embeddings = np.where(valid[:, None], 1.0, 0.0).repeat(4, axis=1).astype(np.float16)
        store.write(name, embeddings, valid, clock=FrameClock(Fraction(25), LENGTH), source="source")
    Receipt.of(store, TRIALS).save(place.receipt)


def _write_results() -> None:
    content = {}
    for share, name in ((0.5, SYSTEMS[0]), (-0.2, SYSTEMS[1])):
        arrays = {encode_trial_id(t): np.nan_to_num(_labels(n)) * np.float32(share) for n, t in enumerate(TRIALS)}
        content[name] = format_arrays(arrays)
        write_file(paths.PREDICTIONS / f"{name}.npz", content[name])
        for seed in (0, 1):
            rows = [
                {"system": "", "fold": 0, "seed": seed, "targets": "", "epoch": e, "loss": 1.0, "ccc": 0.1 * e + share}
                for e in range(3)
            ]
            save_run(paths.MODELS / name / f"fold0/seed{seed}", "", rows)
    figures = {"mean": 0.5, "std": 0.1, "best": 0.6, "ensemble": 0.55, "low": 0.4, "high": 0.6}
    metric = dict.fromkeys(("valence", "arousal", "mean"), figures)
    document = {
        "partition": "test",
        "folds": [0],
        "seeds": 2,
        "predictions": {name: digest_bytes(each) for name, each in content.items()},
        "systems": {name: {"ccc": metric} for name in SYSTEMS},
        "metrics": {"ccc": {"title": "CCC", "digits": 3, "by_target": True, "brief": True}},
    }
    write_document(paths.PROJECT.scores, ScoresDocument, document)
