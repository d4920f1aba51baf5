"""How features are computed: the recipe, and the fingerprint that identifies it.

Embeddings with the same fingerprint may be mixed; any difference in weights, preprocessing, timing or algorithm changes
it. Only data is hashed, never a path, a time stamp, a batch size or a device.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from cache.errors import SettingError
from cache.names import require_folder_name

DTYPES = ("float16", "float32")


def canonical_json(document: Any) -> str:
    """JSON that depends only on the content: sorted keys, no spaces, no nan.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(document: Any) -> str:
    """sha256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


class Seen(NamedTuple):
    """A trial that weights have seen, known by its content where that is known: other corpora may use its id, or have it under another.

    Attributes:
        id: of the trial.
        labels: digest of its labels, as `cache.corpus.manifest.Trial.labels_digest`.
        media: digest of what the backbone read; "" if unknown.
    """

    id: str
    labels: str = ""
    media: str = ""


@dataclass(frozen=True)
class Provenance:
    """Background of features that does not affect their values.

    Attributes:
        weights: how to load them: a registered name, "random:<seed>", or the name of their file.
        origin: address of the weights.
        licence: licence of the weights.
        parents: sha256 of the weights that they were fine-tuned from.
        trials: the trials that they were trained on.
        config: settings of the backbone; with the weights, enough to rebuild it.
        columns: names of the D numbers, if they have any.
        selection: the trials that chose among weights while they were trained.
    """

    weights: str = ""
    origin: str = ""
    licence: str = ""
    parents: tuple[str, ...] = ()
    trials: tuple[Seen, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    selection: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """The recipe of a set of features: the whole chain from the media to the stored numbers.

    Attributes:
        name: the backbone.
        modality: kind of input in one word, e.g. audio, text, visual or pose.
        dim: D, numbers per frame.
        settings: every parameter of the backbone that affects the result (variant, input size, normalisation, colour
            order, sampling rate, window, timing rule), JSON values only.
        weights_sha256: sha256 of the weights' bytes, or "random:<seed>" for untrained networks.
        algorithm: number that a developer increases when a change of code affects the result.
        dtype: stored type, float16 or float32.
        upstream: how crops or transcripts were made from the media; None if unknown, as in imported features and those
            of older versions.
        input: kind of input and its version; None if unknown.
        provenance: stored beside the recipe; not part of the fingerprint.
    """

    name: str
    modality: str
    dim: int
    settings: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    algorithm: int = 1
    dtype: str = "float16"
    upstream: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    provenance: Provenance = field(default=Provenance(), compare=False)

    def __post_init__(self) -> None:
        require_folder_name("Modality", self.modality, "Choose a plain word, such as 'visual' or 'pose'.")
        if self.dtype not in DTYPES or self.dim < 1:
            raise SettingError(
                f"Features '{self.name}' declare dtype '{self.dtype}' and {self.dim} dimensions; expected one of "
                f"{', '.join(DTYPES)}, and at least 1."
            )
        canonical_json(self.settings)

    @property
    def fingerprint(self) -> str:
        """sha256 of the whole recipe, 64 hexadecimal digits."""
        return fingerprint(self.identity())

    def identity(self) -> dict[str, Any]:
        """The content of the fingerprint, as JSON values; unknown parts are left out."""
        document = asdict(self)
        del document["provenance"]
        return {key: value for key, value in document.items() if value is not None}

    def to_document(self) -> dict[str, Any]:
        """Recipe and provenance as JSON values; the provenance has its own digest."""
        if self.provenance == Provenance():
            return self.identity()
        provenance = {
            key: list(value) if isinstance(value, tuple) else value for key, value in vars(self.provenance).items()
        }
        return {**self.identity(), "provenance": {**provenance, "digest": fingerprint(provenance)}}


def flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(document, dict):
        return {prefix.rstrip("."): document}
    return {key: value for name in document for key, value in flatten(document[name], f"{prefix}{name}.").items()}


def compare(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Settings in which two recipes differ, each with both values; None if a recipe lacks the setting."""
    ours = flatten(first.identity())
    theirs = flatten(second.identity())
    names = [*ours, *(name for name in theirs if name not in ours)]
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def differences(old: Recipe, new: Recipe) -> str:
    """Describe how a new recipe differs from an old one."""
    if old.input is None and new.input is not None:
        return (
            "an older version of avfusion made them, which did not record how faces were cropped or words transcribed"
        )
    found = compare(old, new).items()
    return "; ".join(f"{name}: {first}, now {second}" for name, (first, second) in found)
