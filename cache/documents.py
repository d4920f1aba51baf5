"""The one door for what the pipeline writes for itself: JSON documents and arrays, typed, bounded, under a digest.

A document declares its fields as a subclass of `Document`, beside the code that writes it, and is read by
`read_document` alone. It carries the digest of its own content, so that a flipped bit is found whatever it hits, and the
digests of the arrays that belong to it. Whatever is wrong with a file becomes one error, which says what makes it again.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import pydantic
import pydantic_core
from numpy.typing import NDArray

from cache.clock import FrameClock, PictureTimes
from cache.errors import AvFusionError, StoreError
from cache.places import Where, split_place
from cache.spec import FeatureSpec, fingerprint

DIGEST = "digest"
LARGEST_DOCUMENT = 1 << 28  # bytes
MOST_FRAMES = 1 << 31  # of one trial: 2.7 years at 25 Hz
_LARGEST_HEADER = 1 << 12  # bytes before the numbers of an npy file of ours
_SHOWN = 3  # faults of one document that are named; more are counted
_LONGEST_FAULT = 150  # characters of a library's text

Number = Annotated[int, pydantic.Field(ge=0, le=1 << 53)]
"""A count, or another number that is not negative."""
NumFrames = Annotated[int, pydantic.Field(ge=1, le=MOST_FRAMES)]
"""Frames of a trial."""
FractionText = Annotated[str, pydantic.Field(pattern=r"^[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?$")]
"""A positive fraction, such as 30000/1001."""
Pair = Annotated[list[Number], pydantic.Field(min_length=2, max_length=2)]
"""Two numbers, such as start and stop."""
Cell = int | float | str | None
"""One value of a table; null where a figure is not known."""
Values = Annotated[dict[str, Any], pydantic.Field(default_factory=dict)]
"""Any JSON values by name; none by default."""
_TIMES = r"^[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?: ([0-9]{1,10}x[0-9]{1,18}( [0-9]{1,10}x[0-9]{1,18})*)?$"
_LAST_TICK = 1 << 62  # the last one that numpy can add to


class Part(pydantic.BaseModel):
    """Base of what stands within a document: strict types, no unknown keys, no nan."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Refuse what the types of the fields cannot.

        Raises:
            ValueError: if fields contradict each other.
        """


class Document(Part):
    """Base of all documents.

    Attributes:
        digest: sha256 of the canonical JSON of everything else; "" where an older program, or a person, wrote it.
    """

    digest: str = ""


class OwnDocument(Document):
    """Base of documents that a person may have written: other names beside the fields are left aside."""

    model_config = pydantic.ConfigDict(extra="ignore")


class SpecPart(Part):
    """A recipe, as in `cache.spec.FeatureSpec`."""

    name: str
    modality: str
    dim: Annotated[int, pydantic.Field(ge=1, le=1 << 24)]
    settings: Values
    weights_sha256: str = ""
    algorithm: Number = 1
    dtype: str = "float16"

    @property
    def spec(self) -> FeatureSpec:
        """The recipe itself."""
        return FeatureSpec(**self.model_dump())

    def check(self) -> None:
        """Refuse another modality or precision than there are."""
        FeatureSpec(**{name: getattr(self, name) for name in type(self).model_fields})


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
        """Refuse times that are not one for each frame, before anybody writes them out."""
        if self.times is not None:
            runs = [run.split("x") for run in self.times.partition(":")[2].split()]
            number, last = 1 + sum(int(count) for count, _ in runs), sum(int(count) * int(step) for count, step in runs)
            if number != self.num_frames or last > _LAST_TICK:
                raise ValueError(f"times of {number} pictures up to tick {last}, expected {self.num_frames} pictures")


D = TypeVar("D", bound=pydantic.BaseModel)


def sign(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its digest."""
    content = {key: value for key, value in document.items() if key != DIGEST}
    return {**content, DIGEST: fingerprint(content)}


def is_signed(raw: Mapping[str, Any]) -> bool:
    """Whether a document's digest is that of its content; also true of one that has no digest."""
    try:
        return DIGEST not in raw or sign(raw)[DIGEST] == raw[DIGEST]
    except ValueError:  # no JSON, such as nan
        return False


def digest_bytes(content: bytes) -> str:
    """sha256 of a file's content, 64 hexadecimal digits."""
    return sha256(content).hexdigest()


def parse_json(content: bytes) -> Any:
    """JSON values, with limits of size, depth (200) and digits (4,300).

    Raises:
        ValueError: if it is anything else; the message has no line breaks.
    """
    if len(content) > LARGEST_DOCUMENT:
        raise ValueError(f"{len(content)} bytes, expected at most {LARGEST_DOCUMENT}")
    return pydantic_core.from_json(content, allow_inf_nan=False)


def check_document(raw: Any, model: type[D]) -> D:
    """JSON values as a document of this kind.

    Raises:
        ValueError: if the digest is not that of the content, or a field is absent, unknown or of another type; the
            message names several faults in one line.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it holds {type(raw).__name__}, expected names and values")
    if not is_signed(raw):
        raise ValueError("its digest is not that of its content")
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {_fault(e)}" for e in error.errors(include_url=False)]
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise ValueError("; ".join(faults[:_SHOWN] + more)) from error


def _fault(error: Any) -> str:
    text = " ".join(str(error["msg"]).split())
    return text[:_LONGEST_FAULT].rstrip(".").replace("Input should be", "expected").replace("Field required", "absent")


def parse_document(
    content: bytes, model: type[D], where: Where, remedy: str, kind: type[AvFusionError] = StoreError
) -> D:
    """The content of a file as a document.

    Args:
        content: of the file.
        model: what it should be.
        where: the file, for messages.
        remedy: one or two sentences: which command makes it again.
        kind: of error to raise.

    Raises:
        AvFusionError: of this kind, whatever is wrong with it.
    """
    try:
        return check_document(parse_json(content), model)
    except ValueError as error:
        raise damaged(where, error, remedy, kind) from error


def read_document(where: Where, model: type[D], remedy: str, kind: type[AvFusionError] = StoreError) -> D | None:
    """A document that the pipeline wrote; None where there is none. Arguments and errors as of `parse_document`."""
    folder, name = split_place(where)
    size = folder.size(name)
    if size is not None and size > LARGEST_DOCUMENT:
        raise damaged(where, ValueError(f"{size} bytes, expected at most {LARGEST_DOCUMENT}"), remedy, kind)
    content = folder.read(name)
    return None if content is None else parse_document(content, model, where, remedy, kind)


def damaged(where: Where, error: Exception, remedy: str, kind: type[AvFusionError] = StoreError) -> AvFusionError:
    """The error of a file that is not as the pipeline left it."""
    text = " ".join(str(error).split()).rstrip(".")[: _SHOWN * _LONGEST_FAULT]
    return kind(f"'{where}' is damaged ({text or type(error).__name__}). {remedy}")


def format_document(model: type[D], document: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """A document as the bytes of its file, with its digest: UTF-8, one value a line.

    Raises:
        ValueError: if it could not be read again.
    """
    signed = sign(document)
    check_document(json.loads(json.dumps(signed)), model)
    return (json.dumps(signed, indent=1, ensure_ascii=False, sort_keys=sort_keys) + "\n").encode()


def write_document(where: Where, model: type[D], document: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Write or replace a document at once; one of the same bytes stays as it is.

    Raises:
        ValueError: if it could not be read again.
    """
    write_file(where, format_document(model, document, sort_keys=sort_keys))


def write_file(where: Where, content: bytes) -> None:
    """Replace a file at once, never writing into it, which others may hold; one of the same bytes stays as it is."""
    folder, name = split_place(where)
    if folder.size(name) != len(content) or folder.read(name) != content:
        folder.write(name, content)


def format_array(array: NDArray[Any]) -> bytes:
    """An array as the bytes of an npy file."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return content.getvalue()


def read_array(
    where: Where, dtype: str, shape: tuple[int, ...], digest: str, remedy: str, kind: type[AvFusionError] = StoreError
) -> NDArray[Any]:
    """The array of an npy file, compared with what the document above it says; nothing is taken from its own header.

    Args:
        where: the file.
        dtype: of its numbers, in numpy's short form, "<f4".
        shape: of the array.
        digest: sha256 of the file.
        remedy: one or two sentences: which command makes it again.
        kind: of error to raise.

    Raises:
        AvFusionError: of this kind, if the file is absent or anything about it differs.
    """
    folder, name = split_place(where)
    size, expected = folder.size(name), _num_bytes(dtype, shape)
    try:
        if size is None:
            raise ValueError("it is absent")
        if not expected <= size <= expected + _LARGEST_HEADER:
            raise ValueError(f"{size} bytes, expected {expected} and a header")
        content = folder.read(name) or b""
        if digest_bytes(content) != digest:
            raise ValueError("its digest is not the one that was written down")
        return _parse_array(content, dtype, shape)
    except ValueError as error:
        raise damaged(where, error, remedy, kind) from error


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    total = np.dtype(dtype).itemsize
    for length in shape:
        total *= length
    return total


def _parse_array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The numbers behind a header of ours.

    Raises:
        ValueError: if header or length are others.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("its header is of another version")
    try:
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=_LARGEST_HEADER)
    except Exception as error:  # numpy reads it as Python, and raises whatever its tokeniser does
        raise ValueError("its header cannot be read") from error
    start = stream.tell()
    if (found, fortran, kind) != (shape, False, np.dtype(dtype)):
        raise ValueError(f"it holds {kind} of shape {found}, expected {np.dtype(dtype)} of shape {shape}")
    if len(content) != start + _num_bytes(dtype, shape):
        raise ValueError(f"{len(content) - start} bytes of numbers, expected {_num_bytes(dtype, shape)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).copy()


def format_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name as the bytes of an npz file, the same for the same arrays."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), format_array(array))
    return content.getvalue()


def read_arrays(
    where: Where,
    dtype: str,
    shapes: Mapping[str, tuple[int, ...]],
    digest: str,
    remedy: str,
    kind: type[AvFusionError] = StoreError,
) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, some of those in `shapes`; otherwise as `read_array`."""
    folder, name = split_place(where)
    most = sum(_num_bytes(dtype, shape) + 2 * (_LARGEST_HEADER + len(name.encode())) for name, shape in shapes.items())
    size = folder.size(name)
    try:
        if size is None:
            raise ValueError("it is absent")
        if size > most + _LARGEST_HEADER:
            raise ValueError(f"{size} bytes, expected at most {most}")
        content = folder.read(name) or b""
        if digest_bytes(content) != digest:
            raise ValueError("its digest is not the one that was written down")
        return dict(_unzip_arrays(content, dtype, shapes))
    except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise damaged(where, error, remedy, kind) from error


def _unzip_arrays(
    content: bytes, dtype: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and arrays, none of which may ask for more than its shape needs."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in shapes:
                raise ValueError(f"it holds '{name[:40]}', which has no place there")
            if member.file_size > _num_bytes(dtype, shapes[name]) + _LARGEST_HEADER:
                raise ValueError(f"'{name[:40]}' asks for {member.file_size} bytes")
            yield name, _parse_array(archive.read(member), dtype, shapes[name])
