"""List the contents of a folder of features, verify them, and remove what is no longer needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, SettingError, StoreError, UnknownNameError, UnreachableError, VersionError
from cache.names import decode_trial_id
from cache.places.folders import Where, open_folder
from cache.recipe import Recipe, flatten
from cache.store.feature_sets import FeatureSet, group_sets, list_sets
from cache.store.locks import locks_place, sweep
from cache.store.receipt import Receipt, ReceiptEntry, is_unread
from cache.store.records import CommitRecord
from cache.store.store import DROP_FIRST, FeatureStore, fingerprints


@dataclass(frozen=True)
class Holding:
    """One fingerprint of one store.

    Attributes:
        path: path of the store.
        fingerprint: fingerprint of the recipe.
        receipts: names of the feature sets whose receipts name the fingerprint.
        problem: why it cannot be opened; "" if it can.
        newer: whether it cannot be opened because a newer version of avfusion wrote it.
    """

    path: Where
    fingerprint: str
    receipts: tuple[str, ...]
    problem: str = ""
    newer: bool = False

    def open(self) -> FeatureStore:
        """The store.

        Raises:
            StoreError: if it cannot be opened.
        """
        return FeatureStore(self.path, self.fingerprint)


@dataclass(frozen=True)
class Finding:
    """A result of `verify`.

    Attributes:
        store: path of the store or receipt.
        fingerprint: fingerprint of the recipe; "" if it concerns a receipt as a whole.
        trial: the trial; "" if it concerns none.
        text: what is wrong and what to do.
        fault: whether it is a fault; else it is only a note.
        damaged: whether the trial itself is damaged, so that dropping it repairs the store.
    """

    store: str
    fingerprint: str
    trial: str
    text: str
    fault: bool = True
    damaged: bool = False


def list_holdings(features: Where) -> list[Holding]:
    """Every fingerprint of every store in a folder; those in the layout of older versions come last."""
    found = []
    for place, receipts in group_sets(features):
        named = _named_fingerprints(receipts)
        for path in place:
            for fingerprint in fingerprints(path):
                used = tuple(receipt.name for receipt, of in named.items() if fingerprint in of or not of)
                found.append(Holding(path, fingerprint, used, *_problem(path, fingerprint)))
    return found


def find_holding(features: Where, start: str) -> Holding:
    """The only holding whose fingerprint starts with `start`, which may also be the name of a feature set (`facenet`).

    Raises:
        UnknownNameError: if there is none, or several.
    """
    holdings = list_holdings(features)
    matches = [holding for holding in holdings if start and holding.fingerprint.startswith(start)]
    matches = matches or [holding for holding in holdings if start in holding.receipts]
    if len({holding.fingerprint for holding in matches}) != 1:
        if not matches:
            names = sorted({name for holding in holdings for name in holding.receipts})
            raise UnknownNameError(
                f"'{start}' is no feature set in '{features}', nor the start of a fingerprint, nor the path of a store or a receipt; "
                f"expected e.g. {', '.join(names) or 'one that was extracted'}. See 'avfusion cache ls'."
            )
        known = ", ".join(holding.fingerprint[:12] for holding in matches)
        raise UnknownNameError(
            f"'{start}' names {len(matches)} fingerprints in '{features}', expected 1 of {known}. See 'avfusion cache ls'."
        )
    return matches[0]


def describe(recipe: Recipe) -> str:
    """Describe a recipe in words."""
    chain = {**(recipe.upstream or {}), **recipe.settings}
    settings = ", ".join(f"{key} {value}" for key, value in flatten(chain).items())
    weights = recipe.weights_sha256 if ":" in recipe.weights_sha256 else recipe.weights_sha256[:12] or "none"
    return (
        f"{recipe.name} ({recipe.modality}), {recipe.dim} numbers per frame as {recipe.dtype}, weights {weights}, "
        f"algorithm {recipe.algorithm}{'; ' + settings if settings else ''}"
    )


def verify(
    features: Where, manifest: Manifest | None = None, progress: Callable[[int, str], None] = lambda frames, trial: None
) -> list[Finding]:
    """Read everything and verify digests and shapes, receipts, and the manifest's clocks.

    Args:
        features: folder of all features.
        manifest: the corpus; receipts must name exactly its trials, on their clocks.
        progress: called with the number of frames of each trial after reading it.

    Returns:
        All findings; the features are intact if none is a fault.
    """
    return [
        *(finding for holding in list_holdings(features) for finding in _verify_holding(holding, progress)),
        *_verify_receipts(features, manifest),
    ]


def prunable(features: Where) -> list[Holding]:
    """Fingerprints that no receipt names and no process is working on.

    An unreadable receipt protects everything beside it, and a running extraction's lock protects its fingerprint.
    Fingerprints written by a newer version of avfusion are kept.
    """
    unnamed = (holding for holding in list_holdings(features) if not holding.receipts and not holding.newer)
    return [holding for holding in unnamed if not _is_worked_on(holding)]


def unreadable_receipts(features: Where) -> list[str]:
    """Paths of unreadable receipts, which protect everything beside them."""
    groups = group_sets(features)
    return [str(found.receipt) for _, sets in groups for found, named in _named_fingerprints(sets).items() if not named]


def prune(holding: Holding) -> None:
    """Remove one fingerprint.

    Raises:
        SettingError: if a receipt names it, or a process is working on it.
    """
    if holding.receipts or _is_worked_on(holding):
        raise SettingError(
            f"'{holding.fingerprint[:12]}' in '{holding.path}' is in use; it was not removed. Run again later."
        )
    open_folder(holding.path).remove(holding.fingerprint)


def remove_leftovers(features: Where) -> list[str]:
    """Remove what killed processes left half-written, unless a process is working there; returns what was removed."""
    removed = []
    for holding in list_holdings(features):
        folder = open_folder(holding.path).child(holding.fingerprint)
        if not _is_worked_on(holding):
            for name in folder.leftovers():
                folder.remove(name)
                removed.append(f"{folder.where}/{name}")
    return removed


def _verify_holding(holding: Holding, progress: Callable[[int, str], None]) -> Iterator[Finding]:
    place = str(holding.path)
    name = holding.fingerprint
    if holding.problem:
        yield Finding(place, name, "", holding.problem)
        return
    store = holding.open()
    damaged = store.damaged()
    for trial_id in damaged:
        text = f"'zarr.json' of trial '{trial_id}' is damaged. Run {DROP_FIRST}the extraction (or import) again"
        yield Finding(place, name, trial_id, f"{text}; only this trial is redone.", damaged=True)
    for trial_id in sorted(set(store.unfinished()) - set(damaged)):
        yield Finding(place, name, trial_id, "unfinished; the next extraction computes it again", fault=False)
    for entry in open_folder(holding.path).child(name).leftovers():
        text = f"'{entry}' was left by a killed write; the next extraction, or prune, removes it"
        yield Finding(place, name, decode_trial_id(entry[1:].rpartition(".")[0]), text, fault=False)
    for trial_id in store.trial_ids():
        try:
            features = store.read(trial_id, check=True)
            if features.embeddings[~features.valid].any():
                raise StoreError(f"Rows of invalid frames are not zero. Run {DROP_FIRST}the extraction again.")
            progress(len(features.valid), trial_id)
        except UnreachableError:
            raise
        except (AvFusionError, OSError) as error:
            yield Finding(place, name, trial_id, str(error), damaged=True)


def _verify_receipts(features: Where, manifest: Manifest | None) -> Iterator[Finding]:
    for found in list_sets(features):
        if is_unread(found.receipt):
            continue
        where = str(found.receipt)
        try:
            receipts = Receipt.load(where).every()
            stores = [FeatureStore(found.store, receipt.recipe.fingerprint) for receipt in receipts]
            records = [store.find_records(each.trials) for store, each in zip(stores, receipts, strict=True)]
        except AvFusionError as error:
            yield Finding(where, "", "", str(error))
            continue
        for receipt, those in zip(receipts, records, strict=True):
            yield from _compare_receipt(where, receipt, those, manifest)


def _compare_receipt(
    where: str, receipt: Receipt, records: dict[str, CommitRecord], manifest: Manifest | None
) -> Iterator[Finding]:
    name = receipt.recipe.fingerprint
    for trial_id, entry in receipt.trials.items():
        record = records.get(trial_id)
        if record is None:
            yield Finding(where, name, trial_id, "the receipt names it, but the store does not have it; extract again")
        elif ReceiptEntry.of(record) != entry:
            yield Finding(where, name, trial_id, "the store's embeddings differ from the receipt; extract again")
    if manifest is None:
        return
    clocks = {trial.id: trial.clock for trial in manifest.trials}
    if clocks.keys().isdisjoint(receipt.trials):
        yield Finding(where, name, "", "made from media that are not in the manifest", fault=False)
        return
    for trial_id in sorted(clocks.keys() - receipt.trials.keys()):
        yield Finding(where, name, trial_id, "the manifest has it, but the receipt does not name it; extract again")
    for trial_id in sorted(receipt.trials.keys() - clocks.keys()):
        yield Finding(where, name, trial_id, "the manifest does not have it", fault=False)
    for trial_id in sorted(clocks.keys() & records.keys()):
        if clocks[trial_id] != records[trial_id].clock:
            found, wanted = records[trial_id].clock, clocks[trial_id]
            text = f"{found} from {found.start_s:g} s, the manifest says {wanted} from {wanted.start_s:g} s"
            yield Finding(where, name, trial_id, f"{text}; extract again")


def _problem(path: Where, fingerprint: str) -> tuple[str, bool]:
    try:
        FeatureStore(path, fingerprint).find_records()
    except UnreachableError:
        raise
    except AvFusionError as error:
        return str(error), isinstance(error, VersionError)
    return "", False


def _named_fingerprints(sets: Sequence[FeatureSet]) -> dict[FeatureSet, tuple[str, ...]]:
    """Feature set → the fingerprints in its receipt, none if unreadable; sets that no system reads are left out."""
    named = {}
    for found in sets:
        if is_unread(found.receipt):
            continue
        try:
            named[found] = tuple(receipt.recipe.fingerprint for receipt in Receipt.load(found.receipt).every())
        except UnreachableError:
            raise
        except StoreError:
            named[found] = ()
    return named


def _is_worked_on(holding: Holding) -> bool:
    sweep(holding.path)
    locks = open_folder(locks_place(holding.path)).sizes()
    return any(name.startswith(holding.fingerprint[:8]) for name in locks)
