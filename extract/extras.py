"""Libraries that only some users need: the error for a missing one says how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType

from cache.errors import SettingError


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a library that is an optional dependency.

    Args:
        module: dotted name.
        extra: the extra in setup.cfg that installs it.
        purpose: what needs it, as the start of the message.

    Raises:
        SettingError: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(
            f"{purpose} needs the library '{module.split('.')[0]}', which cannot be imported ({error}). Run pip install "
            f"'avfusion[{extra}]'."
        ) from error
