"""A report with nothing to draw."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from cache.places.folders import LocalFolder, open_folder
from pipelines.finished.state import Watch
from pipelines.project import paths
from pipelines.project.params import Params
from pipelines.project.params_file import MATRIX
from pipelines.report.page_tables import remake

_LIBRARIES = ("matplotlib", "bokeh", "jinja2")


def watch_report(params: Params, features: str) -> Watch | None:
    """The watch of a report; None where features are at a URL."""
    if not isinstance(open_folder(features), LocalFolder):
        return None
    outputs = [paths.PROJECT, paths.MATRIX]
    reads = [
        paths.PARAMS,
        Path(MATRIX),
        paths.CORPUS / "manifest.json",
        paths.CORPUS / "labels.npy",
        *(each for own in outputs for each in (own.models, own.scores, own.predictions)),
        paths.NETWORKS,
        paths.FINETUNED,
        paths.CROPS,
        Path(features),
    ]
    settings = [asdict(params), remake(), {name: version(name) for name in _LIBRARIES}, features]
    written = [paths.RESULTS / name for name in ("report.md", "report.html", "figures")]
    return Watch("report", settings, reads, written)
