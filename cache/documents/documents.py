"""The single entry point for the JSON documents that the pipeline writes for itself: typed, bounded, with a digest.

A document declares its fields as a subclass of `Document`, beside the code that writes it, and is read only by
`read_document`. It contains the digest of its own content, so that any flipped bit is found, and the digests of the arrays
that belong to it. Whatever is wrong with a file becomes a single error that says how to make the file again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Annotated, Any, Self, TypeVar, get_args

import pydantic
import pydantic_core

from cache.clock import FrameClock, PictureTimes
from cache.errors import AvFusionError, StoreError, list_faults, short_text
from cache.places.folders import Where, split_place
from cache.recipe import Provenance, Recipe, Seen, fingerprint
from cache.targets import Target

DIGEST = "digest"
LARGEST_DOCUMENT = 1 << 28  # bytes
MOST_FRAMES = 1 << 31  # of one trial: 2.7 years at 25 Hz
_SHOWN = 3  # faults of one document listed in a message; further ones are only counted
_LONGEST_FAULT = 150  # characters of a library's text

Number = Annotated[int, pydantic.Field(ge=0, le=1 << 53)]
"""A count, or another non-negative number."""
NumFrames = Annotated[int, pydantic.Field(ge=1, le=MOST_FRAMES)]
"""Frames of a trial."""
FractionText = Annotated[str, pydantic.Field(pattern=r"^[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?$")]
"""A positive fraction, e.g. 30000/1001."""
NumberText = Annotated[str, pydantic.Field(pattern=r"^[0-9]{1,9}$")]
"""A number as a key of JSON."""
Pair = Annotated[list[Number], pydantic.Field(min_length=2, max_length=2)]
"""Two numbers, e.g. start and stop."""
Cell = int | float | str | None
"""One value of a table; null if it is unknown."""
Values = Annotated[dict[str, Any], pydantic.Field(default_factory=dict)]
"""Any JSON values by name; none by default."""
_TIMES = r"^[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?: ([0-9]{1,10}x[0-9]{1,18}( [0-9]{1,10}x[0-9]{1,18})*)?$"
_LAST_TICK = 1 << 62  # leaves room for additions in int64


class OtherVersionError(ValueError):
    """A document whose version this program cannot read."""


class Part(pydantic.BaseModel):
    """Base of the parts of a document: strict types, no unknown keys, no nan."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Check what the types of the fields cannot express.

        Raises:
            ValueError: if fields contradict each other.
        """


class Document(Part):
    """Base of all documents.

    Attributes:
        digest: sha256 of the canonical JSON of everything else; "" if written by an older version or by a person.
    """

    digest: str = ""


class OwnDocument(Document):
    """Base of documents that a person may have written: unknown names are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore")


SeenPart = Annotated[list[str], pydantic.Field(min_length=3, max_length=3)]
"""A trial that weights have seen, as in `cache.recipe.Seen`."""


class ProvenancePart(Document):
    """A provenance, as in `cache.recipe.Provenance`."""

    weights: str
    origin: str
    licence: str
    parents: list[str]
    trials: list[SeenPart]
    config: dict[str, Any]
    columns: list[str]
    selection: list[SeenPart] = []

    @property
    def provenance(self) -> Provenance:
        """The provenance itself."""
        values: dict[str, Any] = {name: value for name, value in vars(self).items() if name != DIGEST}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        values |= {name: tuple(Seen(*each) for each in values[name]) for name in ("trials", "selection")}
        return Provenance(**values)

    def check(self) -> None:
        """Check the digest."""
        if not is_signed(self.model_dump(exclude_unset=True)):
            raise ValueError("its digest does not match its content")


class RecipePart(Part):
    """A recipe, as in `cache.recipe.Recipe`."""

    name: str
    modality: str
    dim: Annotated[int, pydantic.Field(ge=1, le=1 << 24)]
    settings: Values
    weights_sha256: str = ""
    algorithm: Number = 1
    dtype: str = "float16"
    upstream: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    provenance: ProvenancePart | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        provenance = self.provenance.provenance if self.provenance else Provenance()
        return Recipe(**{**vars(self), "provenance": provenance})

    def check(self) -> None:
        """Check that the modality is a word and the precision exists."""
        _ = self.recipe


class ClockPart(Part):
    """A clock, as in `cache.clock.FrameClock`."""

    rate: FractionText
    num_frames: NumFrames
    start_s: float
    times: Annotated[str, pydantic.Field(pattern=_TIMES)] | None = None

    @property
    def clock(self) -> FrameClock:
        """The clock itself."""
        times = None if self.times is None else PictureTimes.parse(self.times)
        return FrameClock(Fraction(self.rate), self.num_frames, self.start_s, times)

    def check(self) -> None:
        """Check that there is one time per frame, before the runs are expanded."""
        if self.times is not None:
            runs = [run.split("x") for run in self.times.partition(":")[2].split()]
            number = 1 + sum(int(count) for count, _ in runs)
            last = sum(int(count) * int(step) for count, step in runs)
            if number != self.num_frames or last > _LAST_TICK:
                raise ValueError(f"times of {number} pictures up to tick {last}, expected {self.num_frames} pictures")


class TargetPart(Part):
    """A target, as in `cache.targets.Target`."""

    name: str
    kind: str
    unit: str
    low: float
    high: float

    @property
    def target(self) -> Target:
        """The target itself."""
        return Target(**self.model_dump())


D = TypeVar("D", bound=pydantic.BaseModel)


def sign(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same document with its digest."""
    content = {key: value for key, value in document.items() if key != DIGEST}
    return {**content, DIGEST: fingerprint(content)}


def is_signed(raw: Mapping[str, Any]) -> bool:
    """Whether a document's digest matches its content; also true if it has no digest."""
    try:
        return DIGEST not in raw or sign(raw)[DIGEST] == raw[DIGEST]
    except ValueError:  # not valid JSON, e.g. nan
        return False


def digest_bytes(content: bytes) -> str:
    """sha256 of a file's content, 64 hexadecimal digits."""
    return sha256(content).hexdigest()


def parse_json(content: bytes) -> Any:
    """JSON values, with limits of size, depth (200) and digits (4,300).

    Raises:
        ValueError: if it is not valid JSON within these limits; the message has no line breaks.
    """
    if len(content) > LARGEST_DOCUMENT:
        raise ValueError(f"{len(content)} bytes, expected at most {LARGEST_DOCUMENT}")
    return pydantic_core.from_json(content, allow_inf_nan=False)


def check_document(raw: Any, model: type[D]) -> D:
    """JSON values as a document of this kind.

    Raises:
        OtherVersionError: if its `version` is not one of those declared by the field of that name.
        ValueError: if the digest does not match the content, or a field is absent, unknown or of the wrong type; the
            message lists the faults on one line.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it holds {type(raw).__name__}, expected names and values")
    field = model.model_fields.get("version")
    version = raw.get("version")
    known = get_args(field.annotation) if field else ()
    if known and isinstance(version, int) and version not in known:
        raise OtherVersionError(
            f"has version {version}, expected {known[-1]}: it was written by another version of avfusion"
        )
    if not is_signed(raw):
        raise ValueError("its digest does not match its content")
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {_fault(e)}" for e in error.errors(include_url=False)]
        raise ValueError(list_faults(faults, _SHOWN)) from error


def _fault(error: Any) -> str:
    text = " ".join(str(error["msg"]).split())
    return text[:_LONGEST_FAULT].rstrip(".").replace("Input should be", "expected").replace("Field required", "absent")


def parse_document(
    content: bytes, model: type[D], where: Where, remedy: str, kind: type[AvFusionError] = StoreError
) -> D:
    """The content of a file as a document.

    Args:
        content: content of the file.
        model: type of the document.
        where: the file, for messages.
        remedy: one or two sentences that name the command to make it again.
        kind: type of error to raise.

    Raises:
        AvFusionError: of this kind, whatever is wrong with the content.
    """
    try:
        return check_document(parse_json(content), model)
    except ValueError as error:
        raise damaged(where, error, remedy, kind) from error


def read_document(where: Where, model: type[D], remedy: str, kind: type[AvFusionError] = StoreError) -> D | None:
    """A document written by the pipeline; None if there is none. Arguments and errors as in `parse_document`."""
    folder, name = split_place(where)
    size = folder.size(name)
    if size is not None and size > LARGEST_DOCUMENT:
        raise damaged(where, ValueError(f"{size} bytes, expected at most {LARGEST_DOCUMENT}"), remedy, kind)
    content = folder.read(name)
    return None if content is None else parse_document(content, model, where, remedy, kind)


def damaged(where: Where, error: Exception, remedy: str, kind: type[AvFusionError] = StoreError) -> AvFusionError:
    """The error for a file that differs from what the pipeline wrote."""
    if isinstance(error, OtherVersionError):
        return kind(f"'{where}' {error}. {remedy}")
    return kind(f"'{where}' is damaged ({short_text(error)}). {remedy}")


def format_document(model: type[D], document: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """A document as the bytes of its file, with its digest: UTF-8, one value per line.

    Raises:
        ValueError: if it could not be read again.
    """
    signed = sign(document)
    check_document(json.loads(json.dumps(signed)), model)
    return (json.dumps(signed, indent=1, ensure_ascii=False, sort_keys=sort_keys) + "\n").encode()


def write_document(where: Where, model: type[D], document: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Write or replace a document atomically; a file with the same bytes is left untouched.

    Raises:
        ValueError: if it could not be read again.
    """
    write_file(where, format_document(model, document, sort_keys=sort_keys))


def write_file(where: Where, content: bytes) -> None:
    """Replace a file atomically, never in place, as others may have it open; equal content is left untouched."""
    folder, name = split_place(where)
    if folder.size(name) != len(content) or folder.read(name) != content:
        folder.write(name, content)
