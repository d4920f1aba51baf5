"""Whose face it is: the cosine between embeddings of a network that tells people apart, such as FaceNet [Schroff2015FaceNet].

Faces are compared with a reference picture, or with each other, so that a person is known again after a gap or a cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cache.errors import MediaError, MissingFileError
from cache.foreign import sha256_file
from extract.faces.detection import Detector, align_face
from extract.faces.settings import REFERENCE, FaceConfig
from extract.media.pictures import UNREADABLE, to_rgb, why_unreadable
from extract.media.video import shrunk_size

SIZE = 160  # side of the faces that are compared, pixels

Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Aligned faces (N, side, side, 3) uint8 RGB → embeddings (N, D) of any norm."""


@dataclass(frozen=True)
class Identity:
    """How people are told apart.

    Attributes:
        embed: the network.
        size: side of the faces that it reads, pixels.
        min_similarity: cosine above which two faces count as one person's.
    """

    embed: Embedder
    size: int
    min_similarity: float


@dataclass(frozen=True)
class Reference:
    """A person known by a picture.

    Attributes:
        path: the picture, for messages.
        embedding: (D,) of norm 1.
        embed: the embedder that made it.
        min_similarity: cosine above which a face counts as this person's.
    """

    path: Path
    embedding: NDArray[np.float32]
    embed: Embedder
    min_similarity: float

    def score(self, means: NDArray[np.float32], trial_id: str) -> NDArray[np.float64]:
        """Similarity of people to the picture.

        Args:
            means: (N, D), per person the mean of the embeddings of some faces, each of norm 1.
            trial_id: the trial, for the message.

        Returns:
            Mean cosine similarity of each person minus `min_similarity`; above 0 for the same person.

        Raises:
            MediaError: if nobody matches the picture.
        """
        cosines = (means @ self.embedding).astype(np.float64)
        scores = cosines - self.min_similarity
        if len(scores) and scores.max() <= 0:
            raise MediaError(
                f"Nobody in trial '{trial_id}' matches '{self.path}': the best similarity is {cosines.max():.2f}, expected more "
                f"than {self.min_similarity:.2f}. Take another picture or lower crops.reference_similarity."
            )
        return scores


def reference_key(picture: Path, weights: str) -> str:
    """Identifier of a reference picture, part of the crops' identity: digests of the picture and of a weights file.

    Raises:
        MissingFileError: if there is no picture.
    """
    digests = [sha256_file(path) for path in (picture, Path(weights)) if path is picture or path.is_file()]
    return " ".join([REFERENCE, *digests])


def read_reference(
    picture: Path, detector: Detector, config: FaceConfig, embed: Embedder, min_similarity: float
) -> Reference:
    """Read the person in a picture: its largest face, detected and aligned as in videos.

    Raises:
        MissingFileError: if there is no picture.
        MediaError: if it cannot be read, or shows no face.
    """
    if not picture.is_file():
        raise MissingFileError(f"No reference picture '{picture}'. Check the path.")
    try:
        with Image.open(picture) as file:
            image = to_rgb(ImageOps.exif_transpose(file))
    except UNREADABLE as error:
        raise MediaError(
            f"Reference picture '{picture}' cannot be read ({why_unreadable(error)}). Copy it again."
        ) from error
    height, width = shrunk_size(image.height, image.width, config.max_side)
    small = np.array(image.resize((width, height), Image.Resampling.BOX))
    found = detector.search([small])[0].scaled((image.width / width, image.height / height)).rounded()
    if not len(found.boxes):
        raise MediaError(
            f"No face was found in reference picture '{picture}' ({image.width}x{image.height} pixels); expected one, seen from "
            "the front and with some room around it. Take another picture."
        )
    largest = int(np.argmax((found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)))
    face = align_face(np.array(image), found.landmarks[largest], SIZE)
    return Reference(picture, unit(embed(face[None]))[0], embed, min_similarity)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) rows scaled to norm 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
