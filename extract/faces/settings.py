"""Settings of crops, without the libraries that make them, which are slow to import."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import FingerprintError
from cache.foreign import sha256_file
from cache.settings import check_ranges, make_settings

ALGORITHM = 5  # raise it when the same settings give different crops
_IDENTITY_ALGORITHM = 2  # raise it when only those of people who are told apart by their faces are different
TEMPLATE_SIZE = 112
"""Side of the face that crops are aligned to, pixels."""
REFERENCE = "reference"
"""The face like that in a picture of the person."""
PERSON = "#"
"""One of all people: "#1" is the first one seen."""


@dataclass(frozen=True)
class FaceConfig:
    """Settings of detection and tracking; all of them are part of the crops' identity.

    Attributes:
        every: search all of the picture in every k-th frame, and follow the faces in between; 1 searches every picture.
        max_side: pictures are shrunk for detection until their longer side has at most this many pixels.
        min_face_size: smallest face to detect, in pixels of the shrunk picture.
        thresholds: probability thresholds of the three networks.
        min_probability: detections below are ignored.
        max_gap: longest gap in frames without a detection that a track bridges.
        min_overlap: smallest intersection over union of one face's boxes in successive detections or searches.
    """

    every: int = 10
    max_side: int = 640
    min_face_size: int = 32
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    min_probability: float = 0.9
    max_gap: int = 10
    min_overlap: float = 0.3

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(("thresholds", "min_probability", "min_overlap"), (0, 1))
        ranges |= {"every": (1, 1e9), "max_side": (1, 1e9), "min_face_size": (12, 1e9), "max_gap": (0, 1e9)}
        faults: dict[str, str] = {}
        if len(self.thresholds) != 3:
            faults["thresholds"] = f"is {list(self.thresholds)}, expected a list of 3 values"
        check_ranges("the detection of faces", self, ranges, {}, faults)


_WHOSE = ("identity", "identity_similarity", "min_seen_s", "reference_weights", "reference_similarity")
"""Settings that say whose face it is; as the face of a trial, they are not part of a recipe."""


@dataclass(frozen=True)
class CropConfig:
    """Settings of crops; those that affect a face's crops are part of their identity.

    Attributes:
        faces: detection and tracking.
        size: side of a crop, pixels.
        quality: of the JPEGs, 1 to 100; chroma is never subsampled.
        identity: network that knows a person again after a gap or a cut: foamliu, vggface2, or the path of weights of
            mobilefacenet or facenet; empty: people are followed by their places, and a cut ends tracks.
        identity_similarity: cosine above which two faces count as one person's. 0.5 is measured for foamliu (docs/faces.md): one
            person 0.51 to 0.92, two people 0.09 to 0.44; not for others.
        min_seen_s: of face "all": who is seen for a shorter time, seconds, is a passer-by and no trial.
        reference_weights: of the FaceNet that compares faces with a reference picture: a registered name or a path.
        reference_similarity: cosine above which a face counts as the person in the picture. 0.5 is not measured: raise it
            if the wrong person is followed, lower it if nobody matches (the message gives the best cosine).
    """

    faces: FaceConfig = field(default_factory=FaceConfig)
    size: int = TEMPLATE_SIZE
    quality: int = 95
    identity: str = ""
    identity_similarity: float = 0.5
    min_seen_s: float = 1.0
    reference_weights: str = "vggface2"
    reference_similarity: float = 0.5

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"size": (1, 4096), "quality": (1, 100), "min_seen_s": (0, 1e9)}
        check_ranges("the crops", self, ranges | {"identity_similarity": (-1, 1)}, {})

    def to_document(self) -> dict[str, Any]:
        """Settings that affect the crops of any face, as JSON values, without those that say whose face it is."""
        document = {"algorithm": ALGORITHM, **asdict(self)}
        for name in _WHOSE:
            del document[name]
        found: dict[str, Any] = json.loads(json.dumps(document))
        return found

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> CropConfig:
        """Settings from a recipe, with defaults for those that say whose face it is.

        Raises:
            FingerprintError: if this version would make different crops with them.
        """
        own = {key: value for key, value in document.items() if key != "algorithm"}
        found = make_settings(cls, own, "the crops of a recipe")
        if found.to_document() != document:
            raise FingerprintError(
                f"These crops were made by algorithm {document['algorithm']}, this program has {ALGORITHM}. Use the avfusion "
                "version that made them, or extract and train again."
            )
        return found

    def fingerprint(self, face: str) -> str:
        """Digest of everything except the video that affects the crops of one face, hex sha256.

        Args:
            face: as in a trial, or the `reference_key` of a picture, or the `person_key` of one of all people.
        """
        document = {**self.to_document(), "face": face}
        if face.startswith(REFERENCE):
            document |= {name: getattr(self, name) for name in ("reference_weights", "reference_similarity")}
        if not face.startswith(PERSON):
            document |= self.identity_document()
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def identity_document(self) -> dict[str, Any]:
        """What tells people apart, as JSON values; weights in a file count by their content."""
        if not self.identity:
            return {}
        path = Path(self.identity)
        weights = _digest(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) if path.is_file() else self.identity
        return {
            "identity": weights,
            "identity_similarity": self.identity_similarity,
            "identity_algorithm": _IDENTITY_ALGORITHM,
        }


@functools.lru_cache(maxsize=4)  # asked for every trial, and up to 100 MB
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)
