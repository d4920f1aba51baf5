"""Build settings from plain values; all faults are reported together, each with its full key.

Settings are plain frozen dataclasses. Values from YAML or from a caller are converted and checked here: unknown and
missing names, types, and the conditions of a `__post_init__` (a ValueError; `check_ranges` for single values).
pydantic does the work and is imported on first use, so that declaring settings costs nothing.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cache.errors import SettingError, with_full_stop

T = TypeVar("T")
Place = tuple[str | int, ...]
"""Position of a value: names of sections, indices in lists."""
Faults = dict[str, str]
"""Full key → what is wrong with its value: "is 3, expected text"."""

_LONGEST_VALUE = 60  # characters of a value in a message
_MOST_NAMES = 12  # of known names in a message
_DEEPEST = 20  # levels of nested sections
_ABSENT = object()
_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def make_settings(kind: type[T], values: Any, where: str) -> T:
    """Build a settings dataclass from plain values; integers are accepted as floats, lists as tuples.

    Args:
        kind: the dataclass; nested ones are built from nested mappings.
        values: name → value.
        where: file or section, for the message.

    Raises:
        SettingError: if any value is wrong; the message lists every fault.
    """
    made, faults = parse_settings(kind, values)
    if made is None:
        raise refusal(faults, where)
    return made


def as_settings(kind: type[T], values: Any, where: str) -> T:
    """Return settings unchanged, or build them from plain values; arguments and errors as in `make_settings`."""
    return values if is_dataclass(values) else make_settings(kind, values, where)  # type: ignore[return-value]


def parse_settings(
    kind: type[T], values: Any, key: str = "", owner: Callable[[str], str] = lambda name: ""
) -> tuple[T | None, Faults]:
    """Build a settings dataclass, or find all faults of its values.

    Faulty values are removed and the rest is checked again, to find faults of whole sections. A fault of a section is not
    reported if it contains other faults, which may have caused it.

    Args:
        kind: the dataclass.
        values: name → value.
        key: key of the whole, the prefix of each fault's key.
        owner: maps a name unknown to the dataclass to a sentence about where it belongs; "" if nowhere.
    """
    faults: dict[Place, str] = dict(_odd_names(values))
    try:
        rest = json.loads(json.dumps(values, default=_refusable, skipkeys=True))
    except (ValueError, RecursionError):
        faults[()] = "holds itself, expected sections within sections"
        rest = {}
    while True:
        made, found = _validate(kind, rest)
        for place, refused in found.items():
            taken_out = _value_at(rest, place) is _ABSENT and _value_at(values, place) is not _ABSENT
            section_only = refused and any(other[: len(place)] == place for other in faults)
            if place not in faults and not taken_out and not section_only:
                faults[place] = refused or _describe(kind, values, place, owner)
        if not sum(_take_out(rest, place) for place in found):
            break
    return None if faults else made, {_join(key, place): text for place, text in faults.items()}


def refusal(faults: Mapping[str, str], where: str) -> SettingError:
    """The error that lists faults.

    Args:
        faults: from `parse_settings`, at least one.
        where: file or section.
    """
    lines = [with_full_stop(f"'{key}' {text}" if key else f"{where} {text}") for key, text in faults.items()]
    if len(lines) > 1:
        text = f"{len(lines)} settings in {where} are wrong; change them, see 'avfusion params':\n  " + "\n  ".join(
            lines
        )
    else:
        text = f"Setting in {where} is wrong: {lines[0]} Change it; see 'avfusion params'."
    return SettingError(text, faults)


def check_ranges(
    kind: str,
    settings: Any,
    ranges: Mapping[str, tuple[float, float]],
    choices: Mapping[str, Any],
    others: Mapping[str, str] | None = None,
) -> None:
    """Check that numbers are in their closed range and names in their set.

    Args:
        kind: what the settings belong to, for the message.
        settings: the dataclass.
        ranges: field → (lowest, highest), for a number or each number in a list or section; None is always allowed.
        choices: field → allowed values.
        others: field → other faults of its value.

    Raises:
        SettingError: if any value is wrong; the message lists every fault.
    """
    faults = dict(others or {})
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        several = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
        numbers = several or (() if value is None or several is not None else (value,))
        if not all(low <= number <= high for number in numbers):
            shown = list(value) if isinstance(value, tuple) else value
            faults[name] = f"is {shown}, expected {low:g} to {high:g}"
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            faults[name] = f"is '{value}', {expected_one_of(value, allowed)}"
    if faults:
        listed = "; ".join(f"'{name}' {text}" for name, text in faults.items())
        raise SettingError(f"Settings of {kind}: {with_full_stop(listed)} Change the value.", faults)


def _validate(kind: Any, values: Any) -> tuple[Any, dict[Place, str]]:
    """The validated value, or the place of each fault with the message of a `__post_init__`, or ""."""
    import pydantic

    try:
        return _adapter(kind).validate_json(json.dumps([values]))[0], {}
    except pydantic.ValidationError as error:
        found: dict[Place, str] = {}
        for fault in error.errors(include_url=False):
            place = fault["loc"][1:]
            refused = fault.get("ctx", {}).get("error") if fault["type"] == "value_error" else None
            if isinstance(refused, SettingError) and refused.faults:
                found |= {(*place, name): text for name, text in refused.faults.items()}
            elif fault["type"] == "missing" and place and isinstance(place[-1], int):  # of a list of fixed length
                found[place[:-1]] = ""
            else:
                found[place] = "" if refused is None else f"is refused: {refused}"
        return None, found


@functools.cache
def _adapter(kind: Any) -> Any:
    """Strict validation of JSON accepts lists as tuples and integers as floats; that of Python values does not."""
    import pydantic

    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return pydantic.TypeAdapter(list[kind], config=config)


def _describe(kind: Any, values: Any, place: Place, owner: Callable[[str], str]) -> str:
    """Describe a value that does not have its declared type."""
    value = _value_at(values, place)
    around = _type_at(kind, place[:-1])
    if place and is_dataclass(around) and place[-1] not in get_type_hints(around):
        known = list(get_type_hints(around))
        owned = owner(str(place[-1])) and f". {owner(str(place[-1]))}"
        expected = expected_one_of(str(place[-1]), known, owned)
        return f"is {_show(value)}, an unknown setting; {expected}"
    if value is _ABSENT:
        return "is missing; it has no default"
    return f"is {_show(value)}, expected {_say(_type_at(kind, place), value)}"


def _say(hint: Any, value: Any) -> str:
    """Describe what values of a type look like."""
    inner = get_args(hint)
    if is_dataclass(hint):
        return f"a section with some of {', '.join(get_type_hints(hint))}"
    if get_origin(hint) is dict:
        return f"a section of names, each with {_EXPECTED.get(inner[1], 'a value of its own')}, as 'name: value'"
    if len(inner) > 1 and Ellipsis not in inner:
        return f"a list of {len(inner)} values"
    if inner:
        return f"a list, e.g. {'[0, 1]' if inner[0] in (int, float) else '[a, b]'}"
    if hint is float and isinstance(value, float):
        return "a finite number"
    return _EXPECTED[hint]


def _value_at(values: Any, place: Place) -> Any:
    for name in place:
        try:
            values = values[name]
        except (LookupError, TypeError):
            return _ABSENT
    return values


def _type_at(kind: Any, place: Place) -> Any:
    """The declared type of the value at a place; None if there is none."""
    for name in place:
        inner = get_args(kind)
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(str(name))
        elif inner:
            kind = inner[-1] if isinstance(name, str) else inner[0]
        if NoneType in get_args(kind):
            (kind,) = (other for other in get_args(kind) if other is not NoneType)
    return kind


def _take_out(values: Any, place: Place) -> bool:
    """Remove the value at a place, or else the nearest list or section around it; true if something was removed."""
    while place:
        around = _value_at(values, place[:-1])
        if isinstance(around, dict) and place[-1] in around:
            del around[place[-1]]
            return True
        place = place[:-1]
    return False


def _odd_names(values: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Names that are not text, e.g. numbers: YAML allows them, settings do not."""
    for name, value in values.items() if isinstance(values, dict) else ():
        if not isinstance(name, str):
            spelt = json.dumps(name) if name is None or isinstance(name, bool) else str(name)  # as in JSON
            yield (*place, spelt), f"is named by {name!r}, expected text, in quotes"
        elif len(place) < _DEEPEST:
            yield from _odd_names(value, (*place, name))


def _refusable(value: Any) -> Any:
    """Placeholder for a value without a JSON form, e.g. a date; no setting accepts it."""
    return [[str(value)]]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def expected_one_of(name: str, known: Iterable[str], instead: str = "") -> str:
    """The known names and the nearest one, for messages about an unknown name; of many names only some, after the nearest one.

    >>> expected_one_of("facenett", ["bert", "facenet"])
    "expected one of bert, facenet. Did you mean 'facenet'?"
    >>> expected_one_of("n7x", [f"n{number}" for number in range(20)])
    "did you mean 'n7'? Expected one of n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11 and 8 more"
    """
    ordered = list(known)
    near = "" if instead else find_nearest(name, ordered)
    listed = ", ".join(ordered[:_MOST_NAMES]) or "none"
    if len(ordered) <= _MOST_NAMES:
        guess = instead or (f". Did you mean '{near}'?" if near else "")
        return f"expected {'one of ' * bool(ordered)}{listed}{guess}"
    listed = f"xpected one of {listed} and {len(ordered) - _MOST_NAMES} more"
    return f"did you mean '{near}'? E{listed}" if near else f"e{listed}{instead}"


def find_nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to another one; "" if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def _join(key: str, place: Place) -> str:
    for name in place:
        key = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}" if key else name
    return key
