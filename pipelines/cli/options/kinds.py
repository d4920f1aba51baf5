"""Types of the commands' options; a wrong value is a usage error, reported before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import click

from cache.errors import UnknownNameError
from cache.names import require_known
from extract.backbones import BACKBONES


class FrameRate(click.ParamType[Fraction]):
    """Frames per second as a number or a fraction: 25, 29.97, 30000/1001."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        """Parse, or refuse with a usage error."""
        try:
            rate = Fraction(value)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if rate <= 0:
            self.fail(
                f"'{value}' is not a frame rate; expected a positive number such as 25 or 30000/1001.", param, ctx
            )
        return rate


class Frames(click.ParamType["int | str"]):
    """A number of frames, or a word that stands for one.

    Args:
        words: these words.
    """

    name = "frames"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse, or refuse with a usage error."""
        if value in self._words:
            return str(value)
        if not str(value).isdecimal() or not 1 <= int(value) <= 10**6:
            self.fail(
                f"'{value}' is no number of frames; expected 1 to {10**6} or {' or '.join(self._words)}.", param, ctx
            )
        return int(value)


class Spelling(click.ParamType[str]):
    """A name that fits a pattern; whether such a device or model exists is only known once their libraries are loaded.

    Args:
        name: what it names.
        pattern: regular expression of a name.
        expected: the possible names, in words.
        several: whether to allow several, separated by commas.
    """

    def __init__(self, name: str, pattern: str, expected: str, several: bool = False) -> None:
        self.name = name
        self._pattern = re.compile(pattern)
        self._expected = expected
        self._several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        names = [part.strip() for part in value.split(",")] if self._several else [value]
        for name in names:
            if not self._pattern.fullmatch(name):
                self.fail(f"Unknown {self.name} '{name}'; expected {self._expected}.", param, ctx)
        return ",".join(names)


_DEVICE = ("device", r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")
DEVICE = Spelling(*_DEVICE)
DEVICES = Spelling(*_DEVICE, several=True)
RECOGNISER = Spelling("recogniser", r"pocketsphinx|vosk:.+", "'pocketsphinx' or 'vosk:<folder of a model>'")
SCHEDULER = Spelling("scheduler", r"(?:tcp|tls|ws|wss|ucx)://\S+:\d{1,5}/?", "an address such as tcp://host:8786")


class KnownName(click.ParamType[str]):
    """One of several known names; the error suggests the nearest one.

    Args:
        kind: what the names stand for, in words.
        known: the names.
    """

    name = "name"

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self._kind = kind
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        try:
            require_known(self._kind, str(value), self._known)
        except UnknownNameError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def weights_of(backbones: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Backbone → its weights, from one value for all backbones or NAME=WEIGHTS for each.

    Raises:
        UsageError: if a backbone has none, or several.
    """
    pairs = [value.partition("=") for value in values]
    own = {name: weights for name, is_pair, weights in pairs if is_pair and name in BACKBONES}
    common = [
        value for value, (name, is_pair, _) in zip(values, pairs, strict=True) if not (is_pair and name in BACKBONES)
    ]
    surplus = sorted(own.keys() - set(backbones))
    missing = [name for name in dict.fromkeys(backbones) if name not in own and not common]
    if len(common) > 1 or surplus or missing or len(own) + len(common) < len(values):
        raise click.UsageError(
            f"--weights {' '.join(values)}: expected one value, or NAME=WEIGHTS once for each of {', '.join(dict.fromkeys(backbones))}."
        )
    return {name: own.get(name) or common[0] for name in dict.fromkeys(backbones)}
