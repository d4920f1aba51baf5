"""Reading YAML, with numbers as in YAML 1.2: `1e-3` is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cache.errors import SettingError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, except that it reads numbers with an exponent but no point as numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        SettingError: if it is not valid YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise SettingError(f"'{path}' is not YAML in UTF-8: {' '.join(str(error).split())}. Fix the line.") from error
