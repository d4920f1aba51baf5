"""Stage `extract`: run backbones over a corpus, or over loose media, into feature stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError, MissingFileError, TrialsFailedError
from cache.places.folders import Where, is_file, remove_file, replace_suffix
from cache.recipe import Recipe, differences
from cache.store.feature_sets import FeatureSet, find_set, locate_set
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore, fingerprints
from extract.engine.devices import keep_big_buffers
from extract.engine.embedding import extract_features
from extract.engine.outcome import Outcome
from pipelines.console.console import Told, note, tell, warn
from pipelines.console.escaping import printable
from pipelines.project import paths
from pipelines.project.loose_media import save_digests
from pipelines.stages.crops import make_crops, save_crops_receipt
from pipelines.stages.request import Load, Request


@dataclass(frozen=True)
class Extraction:
    """One feature set of some trials: what became of them and of their crops, where the features are."""

    place: FeatureSet
    outcome: Outcome
    fingerprint: str
    crops: Outcome | None = None

    def row(self) -> dict[str, Any]:
        """As a row of the summary."""
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

    The project's receipt speaks for the whole corpus: it is written when every trial was chosen and is finished, and
    removed when it no longer holds. The receipt of loose files names every file of this and of earlier runs.

    Args:
        request: the request.
        made: feature set → what other processes just made of the same request.

    Returns:
        what became of each feature set, for `raise_failed`.

    Raises:
        TrialsFailedError: if none of the loose files can be read.
    """
    done = compute(request, made=made)
    for extraction in done:
        if made and extraction.place.name in made:
            others = replace(made[extraction.place.name], failures={})  # those were tried again
            extraction.outcome.add(others)
        _write_receipt(request, extraction)
    return done


def compute(request: Request, told: Told | None = None, made: Mapping[str, Outcome] | None = None) -> list[Extraction]:
    """As `extract`, without receipts: what several processes do at once on one store.

    Args:
        request: the request.
        told: called with the name of what is being made, frames and trial; a progress bar by default.
        made: feature set → what other processes just made, which is not made again.
    """
    if not request.chosen.trials and request.faults:
        raise TrialsFailedError(
            f"None of {len(request.faults)} files can be read; nothing was extracted.\n{_list_reasons(request.faults)}"
        )
    loads = [request.load(name) for name in request.job.sets]
    crops = None
    if any("crops" in load.backbone.input.media for load in loads):
        trials, device = request.chosen.trials, request.options.device
        crops = make_crops(request.chosen, trials, request.job.config, request.crops_root, device, told=told)
    return [_extract_one(request, _spare(load, made or {}), crops, told) for load in loads]


def _spare(load: Load, made: Mapping[str, Outcome]) -> Load:
    """What was just made is not made again, also with `redo`."""
    finished = made.get(load.name, Outcome()).computed
    return replace(load, options=replace(load.options, spared=frozenset(finished)))


def raise_failed(done: Sequence[Extraction]) -> None:
    """List the failed trials of crops and of every feature set in files beside the stores, and refuse to go on.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    checks: list[tuple[str, Outcome, Where]] = [
        (e.place.name, e.outcome, replace_suffix(e.place.store, ".failures.json")) for e in done
    ]
    checks += [("crops", e.crops, paths.CROPS / "failures.json") for e in done if e.crops is not None][:1]
    texts = []
    for what, outcome, path in checks:
        try:
            raise_failures(what, outcome, path)
        except TrialsFailedError as error:
            texts.append(str(error))
    if texts:
        raise TrialsFailedError("\n".join(texts))


def raise_failures(what: str, outcome: Outcome, path: Where) -> None:
    """List failed trials in a file and refuse to go on; remove the file where none failed.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    outcome.save_failures(path)
    if outcome.failures:
        total = len(outcome.failures) + len(outcome.computed) + len(outcome.kept)
        others = "the others are finished and kept. " if total > len(outcome.failures) else ""
        raise TrialsFailedError(
            f"{what}: {len(outcome.failures)} of {total} trials failed; {others}Fix them and run "
            f"again, only they are redone (list: '{path}').\n{_list_reasons(outcome.failures)}"
        )


def _list_reasons(failures: Mapping[str, str]) -> str:
    return "\n".join(
        f"  {printable(trial_id, keep='')}: {printable(reason, keep='')}"
        for trial_id, reason in sorted(failures.items())
    )


def _extract_one(request: Request, load: Load, made: Outcome | None, told: Told | None) -> Extraction:
    """Extract one feature set; trials with a fault, such as that of their crops, fail with it."""
    keep_big_buffers()
    backbone = load.backbone
    place = locate_set(request.job.features, load.name)
    _tell_why(request.job.features, place, load.recipe)
    store = FeatureStore.create(place.store, load.recipe)
    crops = made if "crops" in backbone.input.media else None
    faults = load.faults | ({} if crops is None else crops.failures)
    trials = [trial for trial in request.chosen.trials if trial.id not in faults]
    with tell(told, load.name, sum(trial.clock.num_frames for trial in trials)) as advance:

        def advance_trial(trial_id: str, frames: int) -> None:
            advance(frames, trial_id)

        outcome = extract_features(backbone, store, request.chosen, trials, request.crops, load.options, advance_trial)
    outcome.failures |= faults
    return Extraction(place, outcome, store.recipe.fingerprint, crops)


def _tell_why(features: Where, place: FeatureSet, recipe: Recipe) -> None:
    """Say why features that are there are computed again, under another recipe or in another place."""
    try:
        if recipe.fingerprint in fingerprints(place.store):
            return
        found = find_set(features, place.name)
        known = Receipt.load(found.receipt).recipe
    except AvFusionError:  # no store or no receipt yet, or a damaged one, which is reported where it is read
        return
    if known != recipe:
        note(
            f"'{found.store}' holds other features of '{place.name}', which are kept; these are computed: "
            f"{differences(known, recipe)}."
        )
    elif found != place:
        note(
            f"'{found.store}' lies where older programs left it and is kept; it is computed again in '{place.store}'. Or stop, "
            f"move it there and '{found.receipt}' to '{place.receipt}'."
        )


def _write_receipt(request: Request, extraction: Extraction) -> None:
    outcome, receipt = extraction.outcome, extraction.place.receipt
    if outcome.blind:
        warn(
            f"{extraction.place.name}: {len(outcome.blind)} of {len(outcome.computed)} trials have not one frame with input (no "
            f"face, sound or word), e.g. '{outcome.blind[0]}'. Look at their media, crops and transcripts."
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
        Receipt.of(store, done).save(receipt)
    elif is_file(receipt) and (outcome.failures or not _is_true(receipt)):
        remove_file(receipt)
        warn(
            f"Receipt '{receipt}' is out of date and was removed; a run over the whole corpus without failures writes it again."
        )


def _is_true(receipt: Where) -> bool:
    """Whether the store still holds what a receipt names."""
    try:
        open_receipt(receipt)
    except MissingFileError:
        return True
    except AvFusionError:
        return False
    return True
