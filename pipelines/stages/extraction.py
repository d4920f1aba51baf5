"""Stage `extract`: run backbones over a corpus or loose media, and store the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError, MissingFileError, TrialsFailedError
from cache.places.folders import Where, is_file, remove_file, replace_suffix
from cache.recipe import differences
from cache.store.feature_sets import FeatureSet, find_set, locate_set
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore, fingerprints
from extract.engine.devices import keep_big_buffers
from extract.engine.embedding import extract_features
from extract.engine.outcome import Outcome
from pipelines.console.console import Told, note, tell, warn
from pipelines.console.failures import Check, list_reasons, raise_failures
from pipelines.project import paths
from pipelines.project.loose_media import save_digests
from pipelines.stages.crops import make_crops, save_crops_receipt
from pipelines.stages.request import Load, Request


@dataclass(frozen=True)
class Extraction:
    """The extraction of one feature set: its place, and the outcome of its trials and their crops."""

    place: FeatureSet
    outcome: Outcome
    fingerprint: str
    crops: Outcome | None = None

    def row(self) -> dict[str, Any]:
        """The row of the summary."""
        outcome = self.outcome
        return {
            "features": self.place.name,
            "fingerprint": self.fingerprint[:12],
            "computed": len(outcome.computed),
            "kept": len(outcome.kept),
            "failed": len(outcome.failures),
            "frames": outcome.frames,
            "frames_per_s": round(outcome.frames / outcome.seconds) if outcome.computed else 0,
            "store": str(self.place.store),
        }


def extract(request: Request, made: Mapping[str, Outcome] | None = None) -> list[Extraction]:
    """Compute what is missing, crops first, and write the receipts.

    The project's receipt covers the whole corpus: it is written if every trial was chosen and is finished, and removed
    when it is out of date. The receipt of loose files lists every file of this and of earlier runs.

    Args:
        request: the request.
        made: feature set → what other processes have just made for the same request.

    Returns:
        One extraction per feature set, for `raise_failed`.

    Raises:
        TrialsFailedError: if none of the loose files can be read.
    """
    done = compute(request, made=made)
    for extraction in done:
        if made and extraction.place.name in made:
            others = replace(made[extraction.place.name], failures={})  # those were tried again
            extraction.outcome.add(others)
        write_receipt(request, extraction)
    return done


def compute(request: Request, told: Told | None = None, made: Mapping[str, Outcome] | None = None) -> list[Extraction]:
    """As `extract`, without receipts; several processes may do this simultaneously on one store.

    Args:
        request: the request.
        told: receives the progress; a progress bar by default.
        made: feature set → what other processes have just made, which is not made again.
    """
    loads = load_sets(request)
    crops = None
    if read_crops(loads):
        crops = make_crops(request.chosen, request.job.config, request.crops_root, request.options.device, told=told)
    done = []
    for load in loads:
        finished = (made or {}).get(load.name, Outcome()).computed
        options = replace(load.options, spared=frozenset(finished))  # is not made again, even with `redo`
        done.append(extract_set(request, replace(load, options=options), crops, told))
    return done


def load_sets(request: Request) -> list[Load]:
    """Load the feature sets of a request, and say why finished ones are computed again.

    Raises:
        TrialsFailedError: if none of the loose files can be read.
    """
    if not request.chosen.trials and request.faults:
        raise TrialsFailedError(
            f"None of {len(request.faults)} files can be read; nothing was extracted.\n{list_reasons(request.faults)}"
        )
    loads = [request.load(name) for name in request.job.sets]
    for load in loads if request.job.fold is None else ():
        _tell_why(request.job.features, load)
    return loads


def read_crops(loads: Sequence[Load]) -> bool:
    """Whether a feature set is made of crops."""
    return any("crops" in load.backbone.input.media for load in loads)


def raise_failed(done: Sequence[Extraction]) -> None:
    """List failed trials of crops and of every feature set in files beside the stores, and raise if there are any.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    checks: list[Check] = [(e.place.name, e.outcome, replace_suffix(e.place.store, ".failures.json")) for e in done]
    checks += [("crops", e.crops, paths.CROPS / "failures.json") for e in done if e.crops is not None][:1]
    raise_failures(*checks)


def extract_set(request: Request, load: Load, made: Outcome | None, told: Told | None) -> Extraction:
    """Extract one feature set; trials that have a fault already, e.g. in their crops, fail with it.

    Args:
        request: the request.
        load: the feature set.
        made: outcome of the crops, if a set needs them.
        told: receives the progress; a progress bar by default.
    """
    keep_big_buffers()
    backbone = load.backbone
    place = locate_set(request.job.features, load.name)
    store = FeatureStore.create(place.store, load.recipe)
    crops = made if "crops" in backbone.input.media else None
    faults = load.faults | ({} if crops is None else crops.failures)
    trials = [trial for trial in request.chosen.trials if trial.id not in faults]
    with tell(told, load.name, sum(trial.clock.num_frames for trial in trials)) as advance:

        def advance_trial(trial_id: str, frames: int) -> None:
            advance(frames, trial_id)

        outcome = extract_features(
            backbone,
            store,
            request.chosen,
            trials,
            request.crops,
            load.options,
            advance_trial,
            lambda: load.executor,
        )
    outcome.failures |= faults
    return Extraction(place, outcome, store.recipe.fingerprint, crops)


def _tell_why(features: Where, load: Load) -> None:
    """Say why existing features are computed again, with another recipe or in another place."""
    place, recipe = locate_set(features, load.name), load.recipe
    try:
        if recipe.fingerprint in fingerprints(place.store):
            return
        found = find_set(features, place.name)
        known = Receipt.load(found.receipt).recipe
    except AvFusionError:  # no store or receipt yet, or a damaged one, which is reported when it is read
        return
    if known != recipe:
        note(
            f"'{found.store}' has features of '{place.name}' with another recipe, which are kept; the new ones are computed "
            f"({differences(known, recipe)})."
        )
    elif found != place:
        note(
            f"'{found.store}' is in the layout of older versions of avfusion and is kept; its features are computed again in "
            f"'{place.store}'. To avoid that, stop, move it there and '{found.receipt}' to '{place.receipt}'."
        )


def write_receipt(request: Request, extraction: Extraction) -> None:
    """Write the receipt of what is finished, or remove one that is out of date; see `extract`."""
    outcome, receipt = extraction.outcome, extraction.place.receipt
    if outcome.blind:
        warn(
            f"{extraction.place.name}: {len(outcome.blind)} of {len(outcome.computed)} trials have no valid frame (no "
            f"face, sound or word), e.g. '{outcome.blind[0]}'. Check their media, crops and transcripts."
        )
    store = FeatureStore(extraction.place.store, extraction.fingerprint)
    done = [*outcome.computed, *outcome.kept]
    if request.is_loose:
        Receipt.of(store, set(store.trial_ids()) - outcome.failures.keys()).save(receipt)
        save_digests(request.chosen, done, Path(str(request.job.features)))
        return
    whole = len(request.chosen.trials) == len(request.corpus.trials)
    if whole and extraction.crops is not None and not extraction.crops.failures:
        save_crops_receipt(request.corpus, request.job.config, request.crops_root, paths.CROPS_RECEIPT)
    if whole and not outcome.failures:
        _complete(Receipt.of(store, done), request.job.fold, receipt).save(receipt)
    elif is_file(receipt) and (outcome.failures or not _is_true(receipt)):
        remove_file(receipt)
        warn(
            f"Receipt '{receipt}' is out of date and was removed; a run over the whole corpus without failures writes it again."
        )


def _complete(made: Receipt, fold: int | None, receipt: Where) -> Receipt:
    """The receipt to write: of the first fold, or of all, what was just made of a further one added to that of the others."""
    if fold is None:
        return made
    known = Receipt.load(receipt)
    return replace(known, folds=known.folds | {fold: made})


def _is_true(receipt: Where) -> bool:
    """Whether the store still has what a receipt lists."""
    try:
        open_receipt(receipt)
    except MissingFileError:
        return True
    except AvFusionError:
        return False
    return True
