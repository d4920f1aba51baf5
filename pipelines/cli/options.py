"""What values of the commands' options look like; a wrong one is a usage error, told before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import click

from cache.errors import UnknownNameError
from cache.names import require_known
from extract.backbones import BACKBONES

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


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


class Device(click.ParamType[str]):
    """Name of a device; whether it exists is known only when torch is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"Unknown device '{value}'; expected auto, cpu, cuda or cuda:N.", param, ctx)
        return str(value)


class Devices(Device):
    """Names of devices with commas between them; one may be named several times."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accept, or refuse with a usage error."""
        return ",".join(super(Devices, self).convert(name.strip(), param, ctx) for name in str(value).split(","))


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


def weights_of(backbones: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Backbone → its weights, of values that are weights for all backbones, or NAME=WEIGHTS for one.

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
