"""Commands `avfusion cache …`: list, check, tidy, export and import stored features."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import counted
from pipelines.cli.options.common import FEATURES, JSON, names_of
from pipelines.console.console import Group, guarded, note, progress, say, say_json, show, warn
from pipelines.project import paths

if TYPE_CHECKING:
    from cache.corpus.manifest import Manifest
    from cache.store.feature_sets import FeatureSet
    from cache.store.store import FeatureStore
    from cache.store.verification import Finding, Holding

_FORMAT = click.Choice(["hdf5", "muse", "npy", "zstd"])


class _LocalPath(click.ParamType[Path]):
    """A path on this machine; a URL would become a folder with a strange name."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Accept, or refuse with a usage error."""
        if "://" in str(value):
            self.fail(f"'{value}' is a URL; expected a local path. Only --features may be a URL.", param, ctx)
        return Path(value)


@click.group("cache", cls=Group)
def cache() -> None:
    """List, check, tidy, export and import stored features.

    A FINGERPRINT may be given by its first digits, as the name of a feature set, or by the path of a store or a receipt.
    """


@cache.command("ls")
@FEATURES
@JSON
@guarded
def list_features(features: str, as_json: bool) -> None:
    """List stored features: what they are made of, how complete and how large they are."""
    rows = [_row(holding) for holding in _holdings(features)]
    show(rows if as_json else [_shorten(row) for row in rows], as_json)
    for row in () if as_json else rows:
        if row["problem"]:
            warn(f"'{row['store']}' {row['made of']}")


@cache.command("info")
@click.argument("fingerprint", shell_complete=names_of("extract"))
@FEATURES
@JSON
@guarded
def info(fingerprint: str, features: str, as_json: bool) -> None:
    """Show what a fingerprint is made of, its whole recipe, and its trials."""
    from cache.recipe import flatten
    from cache.store.verification import describe

    store = _find(features, fingerprint)
    trials = [
        {
            "trial": trial_id,
            "frames": record.clock.num_frames,
            "rate_hz": round(record.clock.rate_hz, 3),
            "invalid": sum(stop - start for start, stop in record.invalid),
        }
        for trial_id, record in sorted(store.find_records().items())
    ]
    recipe = {"fingerprint": store.recipe.fingerprint, **store.recipe.to_document()}
    if as_json:
        say_json({"recipe": recipe, "trials": trials})
        return
    say(f"{describe(store.recipe)}\n")
    show([{"setting": key, "value": value} for key, value in flatten(recipe).items()], False)
    say("")
    show(trials, False)


@cache.command("diff")
@click.argument("first")
@click.argument("second")
@FEATURES
@JSON
@guarded
def diff(first: str, second: str, features: str, as_json: bool) -> None:
    """Show in which settings two fingerprints differ."""
    from cache.recipe import compare

    stores = [_find(features, start) for start in (first, second)]
    rows = [
        {"setting": name, "first": ours, "second": theirs}
        for name, (ours, theirs) in compare(stores[0].recipe, stores[1].recipe).items()
    ]
    show(rows, as_json)
    if not rows and not as_json:
        note("They are the same.")


@cache.command("verify")
@FEATURES
@click.option(
    "--against-source",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Also recompute N trials of each feature set and compare.",
)
@click.option("--seed", default=0, show_default=True, help="Seed for choosing those trials.")
@click.option("--drop", is_flag=True, help="Remove damaged trials, so that the next extraction computes them again.")
@JSON
@guarded
def verify(features: str, against_source: int, seed: int, drop: bool, as_json: bool) -> None:
    """Read everything and check it against digests, receipts and the manifest; exit code 1 on any fault."""
    from cache.store.verification import Finding
    from cache.store.verification import verify as check

    holdings = _holdings(features)
    with progress("verify", sum(_row(holding)["frames"] for holding in holdings)) as advance:
        findings = check(features, _manifest(), advance)
    findings += [Finding(str(found.receipt), "", "", _LEFT_OVER, fault=False) for found in _removed_sets(features)]
    if against_source:
        findings += _against_source(features, against_source, seed)
    if drop:
        findings = _drop(findings)
    _show_findings(findings, as_json)
    faults = sum(finding.fault for finding in findings)
    if not as_json:
        note(f"{counted(len(holdings), 'fingerprint')} read, {counted(faults, 'fault')}.")
    if faults:
        sys.exit(1)


@cache.command("prune")
@click.option("--yes", is_flag=True, help="Remove them; without it, only show what would be removed.")
@FEATURES
@JSON
@guarded
def prune(yes: bool, features: str, as_json: bool) -> None:
    """Remove features that no receipt names, sets that params.yaml no longer names, and leftovers of killed runs.

    Nothing is removed where an extraction is running or a receipt cannot be read. Imported sets are kept.
    """
    from cache.places.folders import remove_file
    from cache.store import verification as checking

    _holdings(features)
    for receipt in checking.unreadable_receipts(features):
        warn(
            f"Receipt '{receipt}' cannot be read, so every fingerprint beside it is kept. Run its extraction or import again, "
            "or delete it if it is not needed."
        )
    removed = _removed_sets(features)
    if removed:
        note(f"Left over, since params.yaml no longer names them: {', '.join(found.name for found in removed)}.")
    stores = {str(found.store) for found in removed}
    holdings = [holding for holding in checking.prunable(features) if str(holding.path) not in stores]
    holdings += [replace(h, receipts=()) for h in checking.list_holdings(features) if str(h.path) in stores]
    rows = [_row(holding) for holding in holdings]
    show(rows if as_json else [_shorten(row) for row in rows], as_json)
    total = sum(row["bytes"] for row in rows)
    if not yes:
        note(f"{counted(len(rows), 'fingerprint')} with {_size(total)} would go. Nothing was removed; add --yes.")
        return
    for holding in holdings:
        checking.prune(holding)
    for found in removed:
        remove_file(found.receipt)
        remove_file(found.store)
    leftovers = checking.remove_leftovers(features)
    note(f"Removed {counted(len(rows), 'fingerprint')} with {_size(total)}, and {counted(len(leftovers), 'leftover')}.")


@cache.command("export")
@click.argument("fingerprint", shell_complete=names_of("extract"))
@click.argument("path", type=_LocalPath())
@click.option("--to", "kind", required=True, type=_FORMAT, help="Format.")
@click.option("--trial", "trials", multiple=True, help="Only this trial; may be repeated.")
@FEATURES
@JSON
@guarded
def export_features(
    fingerprint: str, path: Path, kind: str, trials: tuple[str, ...], features: str, as_json: bool
) -> None:
    """Write one fingerprint as an HDF5 file, a folder of MuSe CSV files or of npy files, or a compressed archive.

    An archive (zstd) is a folder of features like any other: the cache commands and training read it with --features.
    """
    from cache.formats.interchange import export_features as export

    store = _find(features, fingerprint)
    chosen = list(trials) or store.trial_ids()
    export(store, chosen, kind, path)
    show([{"path": str(path), "trials": len(chosen)}], as_json)


@cache.command("import")
@click.argument("path", type=_LocalPath())
@click.option("--from", "kind", required=True, type=_FORMAT, help="Format.")
@click.option("--name", default="", help="Name of the feature set; our own exports have one.")
@click.option("--modality", default="", help="Kind of input in one word, e.g. visual, pose or physiology; likewise.")
@click.option("--rate", default="", help="Frames per second, if neither file nor manifest says so.")
@click.option(
    "--dtype", default="", type=click.Choice(["", "float16", "float32"]), help="Precision; by default as found."
)
@click.option("--zeros-missing", is_flag=True, help="Treat frames whose numbers are all zero as invalid.")
@click.option("--no-manifest", is_flag=True, help="Do not compare with the project's corpus.")
@FEATURES
@JSON
@guarded
def import_features(path: Path, kind: str, no_manifest: bool, features: str, as_json: bool, **known: Any) -> None:
    """Import features in another format into a store that fusion models can train from."""
    from cache.formats.interchange import ImportOptions
    from cache.formats.interchange import import_features as load

    manifest = None if no_manifest else _manifest()
    store, receipt = load(path, kind, features, ImportOptions(**known), manifest)
    show(
        [{"fingerprint": store.recipe.fingerprint[:12], "trials": len(receipt.trials), "store": str(store.path)}],
        as_json,
    )


def _holdings(features: str) -> list[Holding]:
    """The contents of a folder of features; an empty one is an error, so that a wrong path never passes for a sound store."""
    from cache.errors import MissingFileError
    from cache.store.verification import list_holdings

    holdings = list_holdings(features)
    if not holdings:
        raise MissingFileError(
            f"No features in '{features}'. Run an extraction first, or give their folder with --features."
        )
    return holdings


def _find(features: str, given: str) -> FeatureStore:
    """The features of a fingerprint, of a feature set, or at the path of a store or a receipt.

    Raises:
        UnknownNameError: if there are none, or several.
        StoreError: if they cannot be opened.
    """
    from cache.store.receipt import open_receipt
    from cache.store.verification import find_holding

    path = Path(given)
    if path.suffix == ".json" and path.is_file():
        return open_receipt(path)[0]
    if path.suffix == ".zarr" and path.is_dir():
        return find_holding(str(path.parent), path.stem).open()
    return find_holding(features, given).open()


_LEFT_OVER = "params.yaml no longer names this feature set, and no system reads it; 'avfusion cache prune' removes it"


def _removed_sets(features: str) -> list[FeatureSet]:
    """Sets in the project's own folder that params.yaml neither makes nor reads, other than imported ones."""
    from cache.errors import StoreError
    from cache.store.feature_sets import list_sets
    from cache.store.receipt import Receipt, is_unread
    from pipelines.project.params_file import read_params

    if features != str(paths.FEATURES) or not paths.PARAMS.is_file():
        return []

    def was_made_here(found: FeatureSet) -> bool:
        try:
            return is_unread(found.receipt) or Receipt.load(found.receipt).recipe.input is not None
        except StoreError:  # damaged, which is reported by itself
            return False

    params = read_params()
    unnamed = [
        found for found in list_sets(features) if found.name not in params.extract and not params.reads(found.name)
    ]
    return [found for found in unnamed if was_made_here(found)]


def _row(holding: Holding) -> dict[str, Any]:
    from cache.places.folders import open_folder
    from cache.store.verification import describe

    sizes = open_folder(holding.path).child(holding.fingerprint).sizes()
    row = {"fingerprint": holding.fingerprint, "trials": 0, "unfinished": 0, "frames": 0, "bytes": sum(sizes.values())}
    made_of = f"cannot be opened: {holding.problem}"
    if not holding.problem:
        store = holding.open()
        records, unfinished = store.survey()
        row |= {"trials": len(records), "unfinished": len(unfinished)}
        row["frames"] = sum(record.clock.num_frames for record in records.values())
        made_of = describe(store.recipe)
    row |= {"receipts": list(holding.receipts), "store": str(holding.path)}
    return {**row, "made of": made_of, "problem": holding.problem}


def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """A row of 80 columns for people; what features are made of is said by `cache info`."""
    unfinished = f" + {row['unfinished']} unfinished" if row["unfinished"] else ""
    return {
        "set": ", ".join(row["receipts"]) or f"{Path(row['store']).stem} (no receipt)",
        "fingerprint": row["fingerprint"][:12],
        "trials": f"{row['trials']}{unfinished}",
        "frames": row["frames"],
        "size": _size(row["bytes"]),
    }


def _size(number: int) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000  # type: ignore[assignment]
    return f"{number:.3g} GB"


def _manifest() -> Manifest | None:
    """The manifest of the project's corpus, if there is one."""
    from cache.corpus.manifest import Manifest

    return Manifest.load(paths.CORPUS) if (paths.CORPUS / "manifest.json").is_file() else None


def _against_source(features: str, number: int, seed: int) -> list[Finding]:
    from cache.store.feature_sets import list_sets
    from cache.store.receipt import is_unread
    from pipelines.project.params_file import read_params
    from pipelines.stages.check_store import check_against_source

    params = read_params()
    names = {found.name for found in list_sets(features) if not is_unread(found.receipt)}
    return check_against_source(features, params, sorted(names & params.extract.keys()), number, seed)


def _show_findings(findings: Sequence[Finding], as_json: bool) -> None:
    rows = [
        {
            "kind": "fault" if finding.fault else "note",
            "fingerprint": finding.fingerprint if as_json else finding.fingerprint[:12],
            "trial": finding.trial,
            "store": finding.store,
            "what": finding.text,
        }
        for finding in findings
    ]
    show(rows, as_json)


def _drop(findings: Sequence[Finding]) -> list[Finding]:
    """Remove damaged trials; returns the findings, which for removed trials say only what is left to do."""
    from cache.store.store import DROP_FIRST, FeatureStore

    left = []
    for finding in findings:
        done = finding.damaged and FeatureStore(finding.store, finding.fingerprint).drop(finding.trial)
        if finding.damaged:
            note(f"{'Removed' if done else 'In use, kept'}: trial '{finding.trial}'.")
        left.append(replace(finding, text=finding.text.replace(DROP_FIRST, "")) if done else finding)
    return left
