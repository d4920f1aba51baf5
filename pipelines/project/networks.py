"""Trained networks, each kept once under the digest of everything that decides its weights.

The folder of a run, `work/models/<system>/fold<k>/seed<n>`, has links to the files of a network. Going back to earlier
settings finds their networks still here and trains nothing; simultaneous trainings share the work through claims.
`avfusion models prune --yes` removes networks that no run uses.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.documents.documents import write_file
from cache.errors import StoreError, counted
from cache.store.locks import claim, holder, wait_for_any
from fusion.training.checkpoint_files import read_files
from pipelines.project import paths
from pipelines.project.runs import DOCUMENT, Row, digest_of, find_run, list_kept, save_run

if TYPE_CHECKING:
    from fusion.training.checkpoint import Checkpoint

_SECONDS = "seconds"  # a file beside a network that its runs do not have: two equal trainings take different times
_PATIENCE_S = 24 * 3600.0  # how long to wait for networks that other processes train


def place(digest: str) -> Path:
    """Folder of a network."""
    return paths.NETWORKS / digest


def is_kept(digest: str) -> bool:
    """Whether a network is finished and undamaged."""
    return find_run(place(digest), digest) is not None


def remove_damaged(digest: str) -> bool:
    """Remove a network that was finished and has been damaged since; true if it was removed."""
    if not (place(digest) / DOCUMENT).exists():
        return False
    with claimed(digest) as ours:
        damaged = ours and not is_kept(digest)
        if damaged:
            shutil.rmtree(place(digest))
        return damaged


@contextmanager
def claimed(digest: str) -> Iterator[bool]:
    """Claim a network for this process; yields false if another process is training it."""
    paths.NETWORKS.mkdir(parents=True, exist_ok=True)
    taken = claim(paths.NETWORKS, digest)
    if taken is None:
        yield False
        return
    with taken:
        yield True


def keep(digest: str, checkpoint: Checkpoint, history: Sequence[Row]) -> None:
    """Save a network under its digest; it is finished once the document of its run is written, which comes last."""
    checkpoint.save(place(digest))
    save_run(place(digest), digest, history)


def keep_seconds(digest: str, seconds: float) -> None:
    """Note how long an epoch of a network's training took."""
    write_file(place(digest) / _SECONDS, f"{seconds:.4g}\n".encode())


def read_seconds(digest: str) -> float | None:
    """Seconds of an epoch of a network's training; None if that is not known."""
    try:
        return float((place(digest) / _SECONDS).read_text())
    except (OSError, ValueError):
        return None


def take_over(models: Path) -> None:
    """Keep networks that exist only in the folders of runs, as after `dvc pull`, before others replace them."""
    for document in models.rglob(DOCUMENT):
        digest = digest_of(document.parent)
        if digest is None or place(digest).exists():
            continue
        with claimed(digest) as ours:
            if ours and find_run(document.parent, digest) is not None:
                _link_files(document.parent, place(digest))


def name(digest: str, folder: Path) -> None:
    """Put a network into the folder of a run, as links if the file system supports them.

    Files are replaced and never written into; the document of the run comes last.
    """
    _link_files(place(digest), folder)


def is_named(digest: str, folder: Path) -> bool:
    """Whether the folder of a run has links to a network's files."""
    try:
        return all(path.samefile(folder / path.name) for path in _files(place(digest)))
    except FileNotFoundError:
        return False


def _files(folder: Path) -> list[Path]:
    """Files of a network, without that of its seconds, and without parts of files that a killed process left."""
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", _SECONDS))]


def _link_files(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(_files(source), key=lambda path: path.name == DOCUMENT)
    for path in files:
        temporary = folder / f".{path.name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(path, temporary)
        temporary.replace(folder / path.name)
        temporary.unlink(missing_ok=True)  # renaming a link to its own file leaves both


def wait_for(digests: Sequence[str], is_told: bool = False) -> None:
    """Wait until another process finishes or gives up one of the networks that it trains.

    Args:
        digests: of the networks.
        is_told: whether it was said already that this process waits.

    Raises:
        StoreError: if none of them becomes free within a day.
    """
    who = holder(paths.NETWORKS, digests[0]) or "just given back"
    if not is_told:
        what = counted(len(digests), "network")
        warnings.warn(f"Waiting for {what} of another process; the first one is {who}.", stacklevel=2)
    if not wait_for_any(paths.NETWORKS, digests, _PATIENCE_S):
        raise StoreError(f"The network '{digests[0][:12]}' is {who}. Then run 'avfusion train' again.")


def list_networks() -> list[Row]:
    """One row per network, as of `list_kept`."""
    root = paths.MODELS.parent
    runs = sorted(document.parent for document in root.rglob(f"seed*/**/{DOCUMENT}"))
    return list_kept(
        paths.NETWORKS,
        ((run.relative_to(root).as_posix(), run) for run in runs),
        lambda folder: read_files(folder)[0].model if is_kept(folder.name) else "damaged or unfinished",
    )


def remove_network(folder: Path) -> bool:
    """Remove a network; false if a process is training it."""
    with claimed(folder.name) as ours:
        if ours:
            shutil.rmtree(folder)
    return ours
