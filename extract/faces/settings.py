"""Settings of crops, without the libraries that make them, which are slow to import."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from cache.errors import FingerprintError
from cache.settings import check_ranges, make_settings

ALGORITHM = 4  # raise it when the same settings give different crops
TEMPLATE_SIZE = 112
"""Side of the face that crops are aligned to, pixels."""
REFERENCE = "reference"
"""The face like that in a picture of the person."""


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


@dataclass(frozen=True)
class CropConfig:
    """Settings of crops; all of them are part of the crops' identity.

    Attributes:
        faces: detection and tracking.
        size: side of a crop, pixels.
        quality: of the JPEGs, 1 to 100; chroma is never subsampled.
        reference_weights: of the FaceNet that compares faces with a reference picture: a registered name or a path.
        reference_similarity: cosine above which a face counts as the person in the picture. 0.5 is not measured: raise it
            if the wrong person is followed, lower it if nobody matches (the message gives the best cosine).
    """

    faces: FaceConfig = field(default_factory=FaceConfig)
    size: int = TEMPLATE_SIZE
    quality: int = 95
    reference_weights: str = "vggface2"
    reference_similarity: float = 0.5

    def __post_init__(self) -> None:
        check_ranges("the crops", self, {"size": (1, 4096), "quality": (1, 100)}, {})

    def to_document(self) -> dict[str, Any]:
        """Settings that affect the crops of any face, as JSON values, without those of the comparison with a reference."""
        document = {"algorithm": ALGORITHM, **asdict(self)}
        del document["reference_weights"], document["reference_similarity"]
        found: dict[str, Any] = json.loads(json.dumps(document))
        return found

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> CropConfig:
        """Settings from a recipe, with defaults for the comparison with a reference.

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
            face: as in a trial, or the `reference_key` of a picture.
        """
        document = {"algorithm": ALGORITHM, "face": face, **asdict(self)}
        if not face.startswith(REFERENCE):  # unused settings do not count
            del document["reference_weights"], document["reference_similarity"]
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
