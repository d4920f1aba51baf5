"""What values of the commands' options look like; a wrong one is a usage error, told before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import click

from cache.errors import UnknownNameError
from cache.names import require_known


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
            self.fail(f"'{value}' is no frame rate; expected a positive number such as 25 or 30000/1001.", param, ctx)
        return rate


class Device(click.ParamType[str]):
    """Name of a device; whether it exists is known only when torch is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"Unknown device '{value}'; expected auto, cpu, cuda or cuda:N.", param, ctx)
        return str(value)


class KnownName(click.ParamType[str]):
    """One of some names, with the nearest one as a guess.

    Args:
        kind: what the names stand for, in words.
        known: the names.
    """

    name = "name"

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self._kind, self._known = kind, tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        try:
            require_known(self._kind, str(value), self._known)
        except UnknownNameError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class RecogniserName(click.ParamType[str]):
    """Name of a recogniser of speech."""

    name = "recogniser"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        if not re.fullmatch(r"pocketsphinx|vosk:.+", str(value)):
            self.fail(
                f"Unknown recogniser '{value}'; expected 'pocketsphinx' or 'vosk:<folder of a model>'.", param, ctx
            )
        return str(value)
