"""What a machine has of what is needed, and what to do about the rest: `avfusion doctor`."""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError
from cache.names import cards_of, load_named
from cache.places.folders import is_file
from cache.store.feature_sets import find_set
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from extract.engine.devices import has_driver
from extract.weights.cards import card_place
from pipelines.project import paths
from pipelines.project.finetuned import asks_for_finetuned
from pipelines.project.jobs import available_cores
from pipelines.project.params import CorpusParams, FeatureSetParams, Params

OK, NOTE, MISSING = "ok", "note", "missing"
CODECS = {
    **dict.fromkeys(("h264", "aac", "mp3", "pcm_s16le"), MISSING),
    **dict.fromkeys(("hevc", "vp8", "vp9", "av1", "mpeg4", "opus", "vorbis", "flac"), NOTE),
}
"""Codec → what it is if it cannot be decoded."""
_OPTIONAL = {
    "transformers": "text",
    "praatio": "words",
    "pocketsphinx": "pocketsphinx",
    "s3fs": "s3",
    "openvino": "openvino",
    "distributed": "dask",
}
"""Package → the extra that brings it."""
_UNTRAINED = "untrained"
_FEW_BYTES = 2 * 10**9
_PROBE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: versions, devices, codecs, weights, disk or project.
        name: of the thing.
        state: ok, note, or missing, which is an error.
        found: in words.
        remedy: what to do, "" if nothing.
    """

    area: str
    name: str
    state: str
    found: str
    remedy: str = ""


def examine_machine(params: Params | None, in_project: bool) -> Iterator[Finding]:
    """Look at versions, devices, codecs, weights, the corpus's folder and disks.

    Args:
        params: of the project, of whose systems the weights are looked for; None outside of one, or if they cannot be read.
        in_project: whether there is one.
    """
    yield from _versions()
    yield from _devices()
    yield from _codecs()
    if params is not None or not in_project:
        yield from _weights(params)
    if params is not None:
        yield from _corpus(params.corpus)
    disks = {_there(place).stat().st_dev: place for place in reversed(_places(in_project))}
    for place in disks.values():
        yield _disk(place)


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", OK, platform.python_version())
    needed = [line for line in requires("avfusion") or () if "extra ==" not in line]
    for name in ["avfusion", *sorted(re.split(r"[^\w.-]", line)[0] for line in needed)]:
        found = _version(name)
        remedy = "" if found else f"Run 'pip install {name}', or install avfusion again."
        yield Finding("versions", name, OK if found else MISSING, found or "not installed", remedy)
    for name, extra in _OPTIONAL.items():
        found = _version(name)
        remedy = "" if found else f"Where you need it: pip install 'avfusion[{extra}]'."
        yield Finding("versions", name, OK if found else NOTE, found or "not installed", remedy)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _devices() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    yield Finding("devices", "cpu", OK, f"{available_cores()} cores, {_size(memory)} of memory")
    cards = _cards() if has_driver() else []
    for index, card in enumerate(cards):
        yield Finding("devices", f"cuda:{index}", OK, f"{card.name}, {_size(card.total_memory)} of memory")
    if not cards:
        yield Finding("devices", "cuda", NOTE, "none: everything runs on the CPU")


def _cards() -> list[Any]:
    import torch

    return [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]


def _codecs() -> Iterator[Finding]:
    from extract.media.container import can_decode

    remedy = "Install the wheel of 'av' (pip install --force-reinstall av), or convert such media to H.264 and AAC."
    for name, without in CODECS.items():
        if can_decode(name):
            yield Finding("codecs", name, OK, "can be decoded")
        else:
            yield Finding("codecs", name, without, "cannot be decoded", remedy)


def _weights(params: Params | None) -> Iterator[Finding]:
    """The weights of the feature sets that are read; without a project, all that can be downloaded."""
    if params is not None:
        for name, section in params.extract.items():
            if params.reads(name):
                yield _find_weights(f"{name} {section.weights}", section)
        return
    for name in BACKBONES:
        for card in cards_of(BACKBONES[name]):
            found = _find_weights(f"{name} {card}", FeatureSetParams(card, name))
            yield replace(found, state=NOTE if found.state == MISSING else found.state)


def say_absent_weights(params: Params) -> Iterator[str]:
    """Weights that a stage will want and that are not here yet, said before hours of other stages.

    Those of features that are there are not wanted any more.
    """
    for name, section in params.extract.items():
        if params.reads(name) and not is_file(find_set(paths.FEATURES, name).receipt):
            found = _find_weights(name, section)
            if found.state != OK and found.found != _UNTRAINED:
                yield f"Weights '{section.weights}' of feature set '{name}': {found.found}. {found.remedy}"


def _find_weights(title: str, section: FeatureSetParams) -> Finding:
    from extract.weights.hub import PACKAGED, find_model

    wanted = section.weights
    if asks_for_finetuned(wanted):
        return Finding("weights", title, OK, "made by stage finetune")
    if wanted.partition(":")[0] == "random":
        remedy = "For results, set trained weights in params.yaml: see 'avfusion list backbones' and the README."
        return Finding("weights", title, NOTE, _UNTRAINED, remedy)
    if wanted in PACKAGED:
        try:
            return Finding("weights", title, OK, str(find_model(wanted)))
        except AvFusionError as error:
            return Finding("weights", title, MISSING, "not installed", str(error))
    card = cards_of(BACKBONES[section.backbone]).get(wanted)
    place = Path(wanted).expanduser() if card is None else card_place(card)
    if place.exists():
        return Finding("weights", title, OK, str(place))
    if card is None:
        remedy = "Correct the path in params.yaml, or give a registered name."
        return Finding("weights", title, MISSING, f"there is no '{place}'", remedy)
    if section.backbone == "bert":
        return Finding("weights", title, NOTE, "from the hub at first use", f"Or give the folder of '{card.origin}'.")
    if card.direct:
        remedy = f"Without a network, put '{card.origin}' at '{place}'."
        return Finding("weights", title, NOTE, "are downloaded at first use", remedy)
    remedy = f"Download them from '{card.origin}' and put the file at '{place}'."
    return Finding("weights", title, MISSING, "are offered on a web page only", remedy)


def _corpus(params: CorpusParams) -> Iterator[Finding]:
    """The folder of a project's corpus, if it needs one."""
    root = Path(params.root).expanduser()
    if not params.root:
        if not load_named("corpus", CORPORA, params.name).generated:
            yield Finding(
                "project", "corpus", MISSING, f"'{params.name}' needs a folder", "Set corpus.root in params.yaml."
            )
    elif not root.is_dir():
        remedy = "Put the corpus there, or correct corpus.root in params.yaml."
        yield Finding("project", "corpus", MISSING, f"there is no folder '{root}'", remedy)


def _places(in_project: bool) -> list[Path]:
    """Folders that features and what DVC keeps of them are written to."""
    if not in_project:
        return [Path()]
    config = configparser.ConfigParser()
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    cache = config.get("cache", "dir", fallback="cache").strip("\"'")
    return [paths.FEATURES, Path(".dvc", cache)] if Path(".dvc").is_dir() else [paths.FEATURES]


def _there(place: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())


def _disk(place: Path) -> Finding:
    """Room and write speed of the disk that has a folder, or will have it."""
    there = _there(place)
    free = shutil.disk_usage(there).free
    remedy = f"Free some room, or put '{place}' on another disk (README: 'dvc cache dir', --features)."
    if free < _FEW_BYTES:
        return Finding("disk", str(place), MISSING, f"{_size(free)} free", remedy)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            began = time.perf_counter()
            file.write(os.urandom(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            speed = _PROBE_BYTES / (time.perf_counter() - began)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        return Finding("disk", str(place), MISSING, what, f"Check the permissions of '{there}'.")
    return Finding("disk", str(place), OK, f"{_size(free)} free, written at {_size(speed)}/s")


def _size(number: float) -> str:
    return (
        f"{number / 1e9:.0f} GB"
        if number >= 1e10
        else f"{number / 1e9:.1f} GB"
        if number >= 1e9
        else f"{number / 1e6:.0f} MB"
    )
