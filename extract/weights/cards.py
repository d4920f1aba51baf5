"""Cards of published weights: where they come from, and where this machine keeps them; read without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from extract.weights.download import MAX_BYTES


@dataclass(frozen=True)
class WeightsCard:
    """Origin of one published set of weights.

    Attributes:
        name: what a user types.
        variant: of the backbone that they fit.
        origin: URL of the file, or of a page that offers it.
        sha256: of the file: all 64 digits, or as many as are published, from the first one. If these are not all, the digest
            of the first download is saved beside the file and required from then on.
        licence: as stated by the publisher.
        paper: key in `docs/refs.bib`.
        direct: whether `origin` is the file itself and can be downloaded.
        max_bytes: larger downloads are rejected.
    """

    name: str
    variant: str
    origin: str
    sha256: str
    licence: str
    paper: str
    direct: bool = True
    max_bytes: int = MAX_BYTES

    @property
    def is_certain(self) -> bool:
        """Whether all digits of the digest are published."""
        return len(self.sha256) == 64


def weights_folder() -> Path:
    """Folder of downloads: `$AVFUSION_WEIGHTS`, else `~/.cache/avfusion/weights`."""
    return Path(os.environ.get("AVFUSION_WEIGHTS", "~/.cache/avfusion/weights")).expanduser()


def card_place(card: WeightsCard) -> Path:
    """Where published weights are kept on this machine, downloaded or put there by hand."""
    return weights_folder() / f"{card.name}{Path(card.origin).suffix or '.pt'}"
