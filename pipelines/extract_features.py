"""Stage `extract`: run backbones over a corpus, or over loose media, into feature stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import AvFusionError, MissingFileError, SettingError, TrialsFailedError
from cache.manifest import Manifest
from cache.places import Where, is_file, remove_file, replace_suffix
from cache.receipt import Receipt, open_receipt
from cache.spec import FeatureSpec, differences
from cache.store import FeatureStore, fingerprints
from extract.backbone import Backbone, load_backbone
from extract.corpora.file_names import normal
from extract.crops import CropConfig
from extract.devices import choose_device, keep_big_buffers
from extract.engine import EngineOptions, extract_features
from extract.inputs.contract import GIVEN, Input, require_medium
from extract.outcome import Outcome
from extract.runtimes import DEFAULT_RUNTIME, check_running
from pipelines import paths
from pipelines.build_corpus import build_corpus
from pipelines.console import note, progress, warn
from pipelines.escaping import printable
from pipelines.loose_media import by_name, loose_manifest, remember, strangers
from pipelines.params import BackboneParams, Params
from pipelines.write_crops import crops_folder, make_crops, save_crops_receipt

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Some trials of a corpus.

    Attributes:
        patterns: shell patterns, of which a trial's id fits one; none for every trial.
        limit: at most so many of these, the first ones; None for all.
    """

    patterns: tuple[str, ...] = ()
    limit: int | None = None

    def of(self, manifest: Manifest) -> Manifest:
        """The manifest of the chosen trials.

        Raises:
            SettingError: if no trial fits.
        """
        return replace(manifest, trials=tuple(self.pick({trial.id: trial for trial in manifest.trials})))

    def pick(self, trials: Mapping[str, T]) -> list[T]:
        """What belongs to the chosen ids.

        Raises:
            SettingError: if none fits.
        """
        patterns = self.patterns or ("*",)
        chosen = [
            value for name, value in trials.items() if any(fnmatchcase(name, normal(pattern)) for pattern in patterns)
        ]
        if self.patterns and not chosen:
            known, asked = ", ".join(list(trials)[:3]), "' or '".join(self.patterns)
            raise SettingError(
                f"No trial is named '{asked}'; there are {len(trials)}, such as {known}. Change "
                "--trials; '*' stands for any characters."
            )
        return chosen[: self.limit]


@dataclass(frozen=True)
class Extraction:
    """One backbone over some trials: what became of them and of their crops, where the features and their receipt are."""

    backbone: Backbone
    outcome: Outcome
    store: Where
    fingerprint: str
    receipt: Where
    crops: Outcome | None = None

    def row(self) -> dict[str, Any]:
        """As a row of the summary."""
        outcome = self.outcome
        return {
            "backbone": self.backbone.name,
            "fingerprint": self.fingerprint[:12],
            "computed": len(outcome.computed),
            "kept": len(outcome.kept),
            "failed": len(outcome.failures),
            "frames": outcome.frames,
            "frames_per_s": round(outcome.frames / outcome.seconds) if outcome.computed else 0,
            "store": str(self.store),
        }


def load_backbones(
    names: Sequence[str], params: Params, options: EngineOptions
) -> list[tuple[Backbone, EngineOptions]]:
    """The project's backbones of these names, and how each runs; "all" stands for all of `params.yaml`.

    Among several, one that reads sentences runs with torch, as it is, whatever was asked for the others.

    Raises:
        UnknownNameError: if `params.yaml` has no section for a name.
        SettingError: if one cannot run as asked.
    """
    wanted = dict.fromkeys(name for given in names for name in (params.extract if given == "all" else (given,)))
    return [_load(name, params.backbone(name), options, len(wanted) == 1) for name in wanted]


def load_loose(weights: Mapping[str, str], options: EngineOptions) -> list[tuple[Backbone, EngineOptions]]:
    """As `load_backbones`, for loose media: backbone → its weights.

    Raises:
        UnknownNameError: if there is no such backbone.
        SettingError: if one cannot run as asked.
    """
    return [_load(name, BackboneParams(chosen), options, len(weights) == 1) for name, chosen in weights.items()]


def extract_project(
    names: Sequence[str],
    params: Params,
    options: EngineOptions,
    selection: Selection = Selection(),
    features: Where = paths.FEATURES,
) -> list[Extraction]:
    """Extract trials of the project's corpus; corpus and crops are made first where they are missing.

    A receipt speaks for the whole corpus: it is written when every trial was chosen and is finished, and removed when
    it is not true any more.

    Returns:
        what became of each backbone, for `raise_failed`.
    """
    manifest = Manifest.load(paths.CORPUS) if paths.CORPUS.exists() else build_corpus(params.corpus, paths.CORPUS)
    chosen = selection.of(manifest)
    backbones = load_backbones(names, params, options)
    whole = len(chosen.trials) == len(manifest.trials)
    made, config = None, params.crops
    for backbone, _ in backbones:
        require_medium(manifest, chosen.trials, backbone.input)
    if any("crops" in backbone.input.media for backbone, _ in backbones):
        made = make_crops(chosen, chosen.trials, config, paths.CROPS, options.device)
        if whole and not made.failures:
            save_crops_receipt(manifest, config, paths.CROPS, paths.CROPS_RECEIPT)
    done = []
    for backbone, how in backbones:
        crops = made if "crops" in backbone.input.media else None
        folder, upstream = crops_folder(paths.CROPS, config), backbone.input.upstream(manifest, config)
        spec = backbone.spec(params.backbone(backbone.name).dtype, how.precision, upstream)
        faults = {} if crops is None else crops.failures
        extraction = replace(_extract_one(backbone, spec, chosen, folder, features, how, faults), crops=crops)
        outcome = extraction.outcome
        if whole and not outcome.failures:
            _save_receipt(extraction)
        elif is_file(extraction.receipt) and (outcome.failures or not _is_true(extraction.receipt)):
            remove_file(extraction.receipt)
            warn(
                f"Receipt '{extraction.receipt}' is not true any more and was removed; a run over the whole corpus without "
                "failures writes it again."
            )
        done.append(extraction)
    return done


def extract_loose(
    weights: Mapping[str, str], media: Sequence[Path], out: Path, rate: Fraction | None, face: str,
    options: EngineOptions, selection: Selection = Selection(),
) -> list[Extraction]:  # fmt: skip
    """Extract loose media files into `out`; the receipt names every file of this and of earlier runs.

    Args:
        weights: backbone → its weights.
        media: the files.
        out: folder for crops and features.
        rate: see `loose_manifest`.
        face: see `loose_manifest`.
        options: how to run.
        selection: of the files.

    Returns:
        what became of each backbone, for `raise_failed`.

    Raises:
        CorpusError: if two files have the same name.
        SettingError: if there is no such face.
        TrialsFailedError: if none of the files can be read.
    """
    manifest, unread = loose_manifest(selection.pick(by_name(media)), rate, face)
    unread |= {} if options.redo else strangers(manifest, out)
    manifest = replace(manifest, trials=tuple(trial for trial in manifest.trials if trial.id not in unread))
    if not manifest.trials:
        reasons = "\n".join(
            f"  {printable(name, keep='')}: {printable(reason, keep='')}" for name, reason in sorted(unread.items())
        )
        raise TrialsFailedError(f"None of {len(unread)} files can be read; nothing was extracted.\n{reasons}")
    backbones = load_loose(weights, options)
    done, config = [], CropConfig()
    for backbone, how in backbones:
        made, folder = None, out / "crops"
        if "crops" in backbone.input.media:
            made = make_crops(manifest, manifest.trials, config, folder, options.device)
        faults = lacking(manifest, backbone.input) | ({} if made is None else made.failures)
        spec = backbone.spec("float16", how.precision, loose_upstream(backbone.input, manifest, config))
        extraction = _extract_one(backbone, spec, manifest, crops_folder(folder, config), out, how, faults)
        extraction.outcome.failures |= unread
        store = FeatureStore(extraction.store, extraction.fingerprint)
        Receipt.of(store, set(store.trial_ids()) - extraction.outcome.failures.keys()).save(extraction.receipt)
        remember(manifest, extraction.outcome.computed + extraction.outcome.kept, out)
        done.append(extraction)
    return done


def lacking(manifest: Manifest, kind: Input) -> dict[str, str]:
    """Loose files without what a backbone reads, and what to do about it: who names a file wants its features."""
    faults = {}
    for trial in manifest.trials:
        try:
            require_medium(manifest, [trial], kind)
        except AvFusionError as error:
            faults[trial.id] = str(error)
    return faults


def loose_upstream(kind: Input, manifest: Manifest, config: CropConfig) -> dict[str, Any]:
    """As `Input.upstream`; a transcript beside a loose file is given, whoever wrote it, so that runs share their recipe."""
    return {key: GIVEN if key == "words" else value for key, value in kind.upstream(manifest, config).items()}


def raise_failed(done: Sequence[Extraction]) -> None:
    """List the failed trials of crops and of every backbone in files beside the receipts, and refuse to go on.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    checks: list[tuple[str, Outcome, Where]] = [
        (e.backbone.name, e.outcome, replace_suffix(e.receipt, ".failures.json")) for e in done
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
        reasons = "\n".join(
            f"  {printable(trial_id, keep='')}: {printable(reason, keep='')}"
            for trial_id, reason in sorted(outcome.failures.items())
        )
        others = "the others are finished and kept. " if total > len(outcome.failures) else ""
        raise TrialsFailedError(
            f"{what}: {len(outcome.failures)} of {total} trials failed; {others}Mend them and run "
            f"again, only they are redone (list: '{path}').\n{reasons}"
        )


def _load(name: str, params: BackboneParams, options: EngineOptions, alone: bool) -> tuple[Backbone, EngineOptions]:
    choose_device(options.device)  # before weights are fetched
    backbone = load_backbone(name, params.weights, params.settings)
    plain = replace(options, runtime=DEFAULT_RUNTIME, compiled=False)
    if not alone and not backbone.input.mixes and options != plain:
        note(f"Backbone '{name}' reads sentences of any length: it runs with {DEFAULT_RUNTIME}, and is not compiled.")
        options = plain
    check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
    if backbone.weights.seed is not None:
        warn(
            f"Backbone '{name}' has random weights (seed {backbone.weights.seed}): its features are untrained, good for trying "
            "the pipeline only. Set trained weights in params.yaml or with --weights."
        )
    return backbone, options


def _extract_one(
    backbone: Backbone, spec: FeatureSpec, manifest: Manifest, folder: Path, features: Where, options: EngineOptions,
    faults: Mapping[str, str],
) -> Extraction:  # fmt: skip
    """Extract one backbone; trials with a fault, such as that of their crops, fail with it."""
    keep_big_buffers()
    receipt = paths.receipt_path(features, backbone.modality, backbone.name)
    place = replace_suffix(receipt, ".zarr")
    _tell_why(receipt, place, spec)
    store = FeatureStore.create(place, spec)
    trials = [trial for trial in manifest.trials if trial.id not in faults]
    with progress(backbone.name, sum(trial.clock.num_frames for trial in trials)) as advance:

        def tell(trial_id: str, frames: int) -> None:
            advance(frames, trial_id)

        outcome = extract_features(backbone, store, manifest, trials, folder, options, tell)
    outcome.failures |= faults
    if outcome.blind:
        warn(
            f"{backbone.name}: {len(outcome.blind)} of {len(outcome.computed)} trials have not one frame with input (no "
            f"face, sound or word), e.g. '{outcome.blind[0]}'. Look at their media, crops and transcripts."
        )
    return Extraction(backbone, outcome, store.path, store.spec.fingerprint, receipt)


def _tell_why(receipt: Where, place: Where, spec: FeatureSpec) -> None:
    """Say why features that are there are computed again under another recipe."""
    try:
        if spec.fingerprint in fingerprints(place):
            return
        known = Receipt.load(receipt).spec
    except AvFusionError:  # no store or no receipt yet, or a damaged one, which is reported where it is read
        return
    if known != spec:
        note(
            f"'{place}' holds other features of '{spec.name}', which are kept; these are computed: {differences(known, spec)}."
        )


def _save_receipt(extraction: Extraction) -> None:
    store = FeatureStore(extraction.store, extraction.fingerprint)
    Receipt.of(store, extraction.outcome.computed + extraction.outcome.kept).save(extraction.receipt)


def _is_true(receipt: Where) -> bool:
    """Whether the store still holds what a receipt names."""
    try:
        open_receipt(receipt)
    except MissingFileError:
        return True
    except AvFusionError:
        return False
    return True
