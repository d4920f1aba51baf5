"""What plain values a settings dataclass takes, told in the words of who writes them."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from cache.errors import SettingError
from cache.names import config_of, load_named
from extract.corpora import CORPORA

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def check_values(hint: Any, value: Any, where: str, section: str = "") -> None:
    """Refuse values that do not fit a settings dataclass, nested ones among them.

    Args:
        hint: type of the value: a dataclass, a mapping, a list, a plain type, or one of these or None.
        value: as read.
        where: file or section, for messages.
        section: place of the value in it.

    Raises:
        SettingError: naming the setting, and what it may hold.
    """
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    if len(kinds) != 1 or (value is None and kinds != [hint]):
        return
    kind = kinds[0]
    if is_dataclass(kind):
        _check_section(kind, value, where, section)
    elif not _fits(kind, value):
        raise SettingError(
            f"Setting '{section}' in '{where}' is {value!r}, expected {_say(kind)}. Change it; see docs/params.md."
        )
    elif get_origin(kind) is dict:
        for key, inner in value.items():
            check_values(get_args(kind)[1], inner, where, f"{section}.{key}".strip("."))


def _check_section(kind: Any, value: Any, where: str, section: str) -> None:
    hints = get_type_hints(kind)
    known = ", ".join(hints)
    if not isinstance(value, dict):
        raise SettingError(
            f"Setting '{section}' in '{where}' is {value!r}, expected a section with some of {known}. "
            f"Write '{{{next(iter(hints))}: …}}'; see docs/params.md."
        )
    place = f"in '{where}'{f', section {section!r}' if section else ''}"
    unknown = [str(key) for key in value if key not in hints]
    if unknown:
        raise SettingError(
            f"Unknown setting {', '.join(map(repr, unknown))} {place}; expected some of {known}.{_guess(kind, unknown)}"
        )
    for key, inner in value.items():
        check_values(hints[key], inner, where, f"{section}.{key}".strip("."))
    for item in fields(kind):
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise SettingError(f"No setting '{item.name}' {place}; it has no default. Add it; see docs/params.md.")


def _guess(kind: Any, unknown: list[str]) -> str:
    """What to do about unknown settings: those that another corpus left behind go, others may be misspelt."""
    owners = {key: _other_corpora(kind, key) for key in unknown}
    near = [
        name for key in unknown if not owners[key] for name in difflib.get_close_matches(key, get_type_hints(kind), n=1)
    ]
    foreign = [
        f" {key!r} is a setting of corpus {' and '.join(map(repr, names))}: remove it."
        for key, names in owners.items()
        if names
    ]
    return "".join([*foreign, *(f" Did you mean {name!r}?" for name in near[:1])])


def _other_corpora(kind: Any, key: str) -> list[str]:
    """The corpora that have a setting of this name, where the settings are those of a corpus that has not.

    They are imported, which is for errors only.
    """
    if kind.__module__ not in {target.split(":")[0] for target in CORPORA.values()}:
        return []
    return [name for name in CORPORA if key in get_type_hints(config_of(load_named("corpus", CORPORA, name)))]


def _fits(kind: Any, value: Any) -> bool:
    if get_origin(kind) in (list, tuple):
        inner = get_args(kind)
        if not isinstance(value, (list, tuple)):
            return False
        return all(_fits(inner[0], item) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in _WORDS:
        return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return True


def _say(kind: Any) -> str:
    if get_origin(kind) in (list, tuple):
        return f"a list, such as {'[0, 1]' if get_args(kind)[0] in (int, float) else '[a, b]'}"
    if get_origin(kind) is dict:
        return f"a section of names, each with {_WORDS.get(get_args(kind)[1], 'a value of its own')}, as 'name: value'"
    return _WORDS[kind]
