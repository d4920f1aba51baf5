"""Export and import of features: HDF5, MuSe CSV, npy folders, and archives compressed with zstd.

Importing our own export restores the same store, byte for byte, as recipe and commit records are exported too. Features of
other programs become a store whose fingerprint is derived from its content, also with commit records and a receipt.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, CorpusError, MissingFileError, SettingError, StoreError, list_faults
from cache.foreign import match_names, one_line
from cache.names import load_named, require_folder_name, require_known
from cache.places.folders import Where, open_folder
from cache.recipe import Recipe, canonical_json
from cache.store.feature_sets import locate_set
from cache.store.receipt import Receipt
from cache.store.records import CommitRecord, digest_embeddings, invalid_runs
from cache.store.store import FeatureStore

FORMATS = {
    "hdf5": "cache.formats.hdf5:HDF5",
    "muse": "cache.formats.muse:MUSE",
    "npy": "cache.formats.npy:NPY",
    "zstd": "cache.formats.archive:ZSTD",
}
SIDECAR = "avfusion.json"
SLACK = 2
"""Number of rows by which features of other programs may differ from their trial's clock without an error."""


class Item(NamedTuple):
    """A trial on its way between two formats.

    Attributes:
        trial_id: the trial.
        embeddings: (T, D); rows of invalid frames may have any values.
        valid: (T,) true where the backbone saw input.
        clock: clock of the frames, None if the format lacks it.
        record: its commit record, None if another program wrote it.
        cut: number of rows cut off its end to fit a clock; negative if the last one was repeated.
    """

    trial_id: str
    embeddings: NDArray[Any]
    valid: NDArray[np.bool_]
    clock: FrameClock | None
    record: CommitRecord | None
    cut: int = 0


class Bundle(NamedTuple):
    """The content of a file or folder.

    Attributes:
        recipe: how it was made, None if another program wrote it.
        trial_ids: its trials.
        load: loads a trial; the clock is for files of other programs in formats that place rows by their times.
        name: name of the feature set, "" if the format lacks it.
    """

    recipe: Recipe | None
    trial_ids: list[str]
    load: Callable[[str, FrameClock | None], Item]
    name: str = ""


class Format(NamedTuple):
    """One file format: `write(path, store, items)` makes what `read(path)` reads; `path` does not exist before."""

    write: Callable[[Path, FeatureStore, Iterable[Item]], None]
    read: Callable[[Path], Bundle]


@dataclass(frozen=True)
class ImportOptions:
    """Information that is missing in files of other programs.

    Attributes:
        name: name of the feature set; replaces the one in our own exports.
        modality: kind of input in one word, e.g. audio, text, visual or pose.
        rate: frames per second, "" if given by the format or the manifest.
        dtype: float16 or float32, "" for the precision found (at most float32).
        zeros_missing: treat frames whose numbers are all zero as invalid.
    """

    name: str = ""
    modality: str = ""
    rate: str = ""
    dtype: str = ""
    zeros_missing: bool = False


def export_features(store: FeatureStore, trial_ids: Sequence[str], kind: str, path: Path) -> None:
    """Write trials of a store as a file or folder of another format, every byte checked.

    Args:
        store: the features.
        trial_ids: trials to export.
        kind: hdf5, muse, npy or zstd.
        path: the file or folder to write; must not exist.

    Raises:
        UnknownNameError: if the format is unknown, or there is no such trial.
        SettingError: if the path exists.
        StoreError: if a trial is altered, or the path cannot be written.
    """
    form: Format = load_named("format", FORMATS, kind)
    if path.exists():
        raise SettingError(f"'{path}' exists; an export never writes over anything. Remove it or choose another name.")
    known = store.find_records()
    for trial_id in trial_ids:
        require_known("finished trial", trial_id, known)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open_folder(partial.parent).remove(partial.name)
        form.write(partial, store, (read_item(store, trial_id) for trial_id in trial_ids))
        _sync(partial)
        partial.rename(path)
    except (OSError, StoreError) as error:
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if not isinstance(cause, OSError) or isinstance(cause, AvFusionError):
            raise  # of the store that is read
        raise StoreError(
            f"'{path}' could not be written ({one_line(cause)}). Nothing of it was kept; free space or fix the permissions "
            "and export again."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # e.g. if its folder is a file
            open_folder(partial.parent).remove(partial.name)


def _sync(partial: Path) -> None:
    """Flush files to disk; a full disk may only be reported then."""
    for path in [partial] if partial.is_file() else sorted(partial.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def import_features(
    path: Path, kind: str, features: Where, options: ImportOptions = ImportOptions(), manifest: Manifest | None = None
) -> tuple[FeatureStore, Receipt]:
    """Make a store and its receipt from a file or folder in another format.

    Args:
        path: the file or folder.
        kind: hdf5, muse, npy or zstd.
        features: folder of all features; see `cache.store.feature_sets.locate_set`.
        options: needed for files of other programs; our own exports are complete.
        manifest: the corpus; it provides the clocks, and its trials must be exactly the imported ones. In features of other
            programs, up to `SLACK` surplus rows are cut off and missing ones repeat the last row, with a warning.

    Raises:
        MissingFileError: if the path does not exist.
        SettingError: if information is missing in both the format and the options, or the name cannot name a folder.
        CorpusError: if the trials differ from those of the manifest; the message lists every fault.
        StoreError: if our export was altered since, or the store cannot be written.
    """
    form: Format = load_named("format", FORMATS, kind)
    if not path.exists():
        raise MissingFileError(f"'{path}' does not exist. Name the file or folder to import.")
    bundle = form.read(path)
    if not bundle.trial_ids:
        raise CorpusError(f"'{path}' holds no features in format '{kind}'. Check the path and the format.")
    known_clocks = {trial.id: trial.clock for trial in manifest.trials} if manifest is not None else {}
    if bundle.recipe is None:
        bundle = _under_ids(bundle, known_clocks.keys(), path)
        recipe, write = _adopt(path, kind, bundle, options, known_clocks)
    else:
        recipe = bundle.recipe
        if options.modality not in ("", recipe.modality):
            raise SettingError(
                f"'{path}' is an export of ours and says that its modality is '{recipe.modality}', not '{options.modality}'. Leave "
                "'--modality' out."
            )
        write = partial(_write_again, path)
    name = options.name or bundle.name or recipe.name
    require_folder_name("Name", name, "Choose another with '--name'.")
    place = locate_set(features, name)
    store = FeatureStore.create(place.store, recipe)
    for trial_id in bundle.trial_ids:
        item = bundle.load(trial_id, known_clocks.get(trial_id))
        try:
            write(store, item)
        except OSError as error:
            raise StoreError(
                f"Trial '{trial_id}' could not be written to '{store.path}' ({error}). Finished trials are kept; free space "
                "or fix the permissions and import again."
            ) from error
    receipt = Receipt.of(store, bundle.trial_ids)
    receipt.save(place.receipt)
    return store, receipt


def _under_ids(bundle: Bundle, known: Set[str], path: Path) -> Bundle:
    """The same bundle, with the manifest's ids for names that differ from them only in Unicode form."""
    names = match_names(bundle.trial_ids, known, path)

    def load(trial_id: str, clock: FrameClock | None) -> Item:
        return bundle.load(names[trial_id], clock)._replace(trial_id=trial_id)

    return Bundle(None, sorted(names), load)


def read_item(store: FeatureStore, trial_id: str, clock: FrameClock | None = None) -> Item:
    """A trial of one of our own stores, every byte checked; the clock is that of its record."""
    features = store.read(trial_id, check=True)
    record = store.record(trial_id)
    return Item(trial_id, features.embeddings, features.valid, record.clock, record)


def _write_again(path: Path, store: FeatureStore, item: Item) -> None:
    """Write a trial from our own export in `path`, unless the store already has it intact."""
    record = item.record
    assert record is not None
    stored = np.ascontiguousarray(item.embeddings, np.dtype(store.recipe.dtype).newbyteorder("<"))
    if digest_embeddings(stored, invalid_runs(item.valid)) != record.embeddings:
        raise StoreError(
            f"Trial '{item.trial_id}' in '{path}' differs from the digest that was exported with it: it was altered since. Export it "
            f"again, or remove the recipe ('{SIDECAR}', or attribute 'avfusion_spec') to import it as new features with '--name' "
            "and '--modality'."
        )
    if store.find_record(item.trial_id) != record or not store.is_whole(item.trial_id):
        store.write(
            item.trial_id, stored, item.valid, source=record.source, clock=record.clock, versions=record.versions
        )


def _adopt(
    path: Path, kind: str, bundle: Bundle, options: ImportOptions, known_clocks: Mapping[str, FrameClock]
) -> tuple[Recipe, Callable[[FeatureStore, Item], None]]:
    """A recipe for features of another program, and a function that writes its trials."""
    if not options.name or not options.modality:
        raise SettingError(f"'{path}' does not say what it holds. Give its name and modality ('--name', '--modality').")
    faults = _compare_trials(known_clocks.keys(), set(bundle.trial_ids)) if known_clocks else []
    clocks: dict[str, FrameClock] = {}
    digests: dict[str, str] = {}
    shapes: dict[tuple[int, str], str] = {}
    fitted: list[str] = []

    def load(trial_id: str) -> Item:
        clock = known_clocks.get(trial_id)
        item = _mark_missing(bundle.load(trial_id, clock), options)
        return item if clock is None else _fit(item, clock.num_frames)

    for trial_id in bundle.trial_ids:
        item = load(trial_id)
        clock = known_clocks.get(trial_id) or _clock(item, options.rate)
        if clock is None:
            raise SettingError(f"'{path}' does not say how many frames a second has. Give the rate ('--rate').")
        if clock.num_frames != len(item.valid):
            faults.append(
                f"trial '{trial_id}' has {len(item.valid)} rows, expected {clock.num_frames}, at most {SLACK} more or less"
            )
        if item.cut:
            fitted.append(f"'{trial_id}' ({item.cut:+d})")
        clocks[trial_id] = clock
        digests[trial_id] = _digest(item)
        found_dtype = "float16" if item.embeddings.dtype == np.float16 else "float32"
        faults += _overflows(item, options.dtype or found_dtype)
        shapes.setdefault((item.embeddings.shape[1], found_dtype), trial_id)
    if len(shapes) > 1:
        faults.append(
            "trials differ in width or precision: "
            + ", ".join(f"{d} numbers ({t}), e.g. '{shapes[d, t]}'" for d, t in sorted(shapes))
        )
    if faults:
        raise CorpusError(f"'{path}' does not fit: {'; '.join(faults)}. Fix the files and import again.")
    if fitted:
        warnings.warn(
            f"{len(fitted)} trials of '{path}' had more rows (+, cut off) or fewer (-, the last one repeated) than their clock: "
            f"{list_faults(fitted, 5)}.",
            stacklevel=3,
        )
    ((dim, dtype),) = shapes
    content = hashlib.sha256(canonical_json(digests).encode()).hexdigest()
    settings = {"imported": kind, "content": content}
    recipe = Recipe(options.name, options.modality, dim, settings, "imported", 1, options.dtype or dtype)

    def write(store: FeatureStore, item: Item) -> None:
        record = store.find_record(item.trial_id)
        made = (digests[item.trial_id], clocks[item.trial_id])
        if record is None or (record.source, record.clock) != made or not store.is_whole(item.trial_id):
            item = load(item.trial_id)
            source, clock = made
            store.write(item.trial_id, item.embeddings, item.valid, source=source, clock=clock)

    return recipe, write


def _mark_missing(item: Item, options: ImportOptions) -> Item:
    """Mark frames with a non-finite number as invalid, and optionally those with only zeros."""
    valid = item.valid & np.isfinite(item.embeddings).all(axis=1)
    if options.zeros_missing:
        valid &= item.embeddings.any(axis=1)
    return item._replace(valid=valid)


def _compare_trials(known: Set[str], found: Set[str]) -> list[str]:
    """Differences between the trials and those of the manifest."""
    return [
        *(f"trial '{name}' of the manifest is absent" for name in sorted(known - found)),
        *(f"trial '{name}' is not in the manifest" for name in sorted(found - known)),
    ]


def _overflows(item: Item, dtype: str) -> list[str]:
    """The fault of a trial if its numbers are too large for the stored precision."""
    sizes = np.where(item.valid[:, None], np.abs(item.embeddings), 0)
    row, column = divmod(int(sizes.argmax()), sizes.shape[1])
    with np.errstate(over="ignore"):
        if np.isfinite(sizes[row, column].astype(dtype)):
            return []
    value, largest = item.embeddings[row, column], np.finfo(dtype).max
    remedy = "scale the column" if dtype == "float32" else "use '--dtype float32'"
    return [
        f"trial '{item.trial_id}' has {value:.4g} in row {row}, column {column}, {dtype} ends at {largest:.6g}: {remedy}"
    ]


def _fit(item: Item, num_frames: int) -> Item:
    """Cut off up to `SLACK` surplus rows, or repeat the last row for missing ones; otherwise leave the item unchanged."""
    cut = len(item.valid) - num_frames
    if not 0 < abs(cut) <= SLACK or len(item.valid) == 0:
        return item
    rows = np.minimum(np.arange(num_frames), len(item.valid) - 1)
    return item._replace(embeddings=item.embeddings[rows], valid=item.valid[rows], cut=cut)


def _clock(item: Item, rate: str) -> FrameClock | None:
    if rate:
        try:
            return FrameClock(Fraction(rate), len(item.valid))
        except (ValueError, ZeroDivisionError) as error:
            raise SettingError(
                f"Rate '{rate}' is not a number of frames per second; give one, e.g. 25 or 30000/1001."
            ) from error
    return item.clock


def _digest(item: Item) -> str:
    """sha256 of a trial's original numbers and of its valid frames."""
    rows = np.ascontiguousarray(np.where(item.valid[:, None], item.embeddings, 0))
    state = hashlib.sha256(f"{rows.dtype.str}{rows.shape}".encode())
    state.update(rows.view(np.uint8).data)
    state.update(item.valid.tobytes())
    return state.hexdigest()
