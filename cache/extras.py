"""Libraries that only some users need; each belongs to an extra of the package, and asking for it says which."""

from __future__ import annotations

import importlib
from types import ModuleType

from cache.errors import SettingError


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a library of an extra of the package.

    Args:
        module: dotted name.
        extra: of setup.cfg that installs it.
        purpose: what it is needed for, in words, for the message.

    Raises:
        SettingError: if it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(
            f"{purpose} needs the library '{module.split('.')[0]}', which cannot be imported ({error}). Run pip install "
            f"'avfusion[{extra}]'."
        ) from error
