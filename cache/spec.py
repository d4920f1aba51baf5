"""What features are made of: the recipe, and the fingerprint that names it.

Two sets of embeddings with the same fingerprint may be mixed; any difference in weights, preprocessing,
timing or algorithm gives another one. Only data is hashed, never a path, a time stamp, a batch size or a device.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from cache.errors import SettingError

MODALITIES = ("audio", "text", "visual")
DTYPES = ("float16", "float32")


def canonical_json(document: Any) -> str:
    """JSON that depends on content alone: sorted keys, no spaces, no nan.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(document: Any) -> str:
    """sha256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


@dataclass(frozen=True)
class FeatureSpec:
    """The recipe of one backbone's embeddings.

    Attributes:
        name: the backbone.
        modality: audio, text or visual.
        dim: D, numbers per frame.
        settings: every parameter that changes what is computed (variant, input size, normalisation,
            colour order, sampling rate, window, timing rule), JSON values only.
        weights_sha256: of the weights' bytes, or "random:<seed>" for untrained networks.
        algorithm: number that a developer raises when code changes what is computed.
        dtype: as stored, float16 or float32.
    """

    name: str
    modality: str
    dim: int
    settings: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    algorithm: int = 1
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES or self.dtype not in DTYPES or self.dim < 1:
            raise SettingError(
                f"Features '{self.name}' declare modality '{self.modality}', dtype '{self.dtype}' and {self.dim} "
                f"dimensions; expected one of {', '.join(MODALITIES)}, one of {', '.join(DTYPES)}, and at least 1."
            )
        canonical_json(self.settings)

    @property
    def fingerprint(self) -> str:
        """sha256 of the whole recipe, 64 hexadecimal digits."""
        return fingerprint(self.to_document())

    def to_document(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> FeatureSpec:
        """Inverse of `to_document`."""
        return cls(**document)
