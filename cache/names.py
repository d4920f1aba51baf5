"""Names: lazy tables of implementations, and trial ids as file names.

A table maps a public name to `"package.module:Attribute"`. Listing a table imports nothing, so that
`--help` and planning never pay for torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from cache.errors import SettingError, UnknownNameError, with_full_stop
from cache.settings import expected_one_of

_LONGEST_FILE_NAME = 240  # bytes; file systems allow 255, temporary names and suffixes need the rest
_LONGEST_FOLDER_NAME = 200  # bytes; the names of its receipt, locks and failures are longer


def require_known(kind: str, name: str, known: Collection[str]) -> None:
    """Check that a name is among the known ones; the error suggests the nearest one.

    Args:
        kind: what the name stands for, in words ("backbone").
        name: the requested name.
        known: every name that exists.

    Raises:
        UnknownNameError: if `name` is not in `known`.
    """
    if name not in known:
        raise UnknownNameError(with_full_stop(f"Unknown {kind} '{name}'; {expected_one_of(name, sorted(known))}"))


def require_folder_name(kind: str, name: str, remedy: str) -> None:
    """Check that a name is safe as a folder: it cannot leave its parent, be hidden, or need quotes.

    Args:
        kind: what the name stands for, in words, capitalised ("System").
        name: the name.
        remedy: what to do instead.

    Raises:
        SettingError: if the name has anything but letters, digits, '_', '-' and '.', starts with one of the last two, or is
            longer than 200 bytes.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > _LONGEST_FOLDER_NAME:
        raise SettingError(
            f"{kind} '{name}' cannot name a folder; use letters, digits, '_', '-' and '.', at most {_LONGEST_FOLDER_NAME} bytes. "
            f"{remedy}"
        )


def load_named(kind: str, table: Mapping[str, str], name: str) -> Any:
    """Import and return the object that `table` has under `name`.

    Raises:
        UnknownNameError: if the table has no such name.
    """
    require_known(kind, name, table)
    return _load(table[name])


def _load(target: str) -> Any:
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)


def exports(table: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package defines as `__getattr__`, so that its public names are imported when they are first asked for.

    Args:
        table: public name → its module.
    """

    def import_name(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"There is no public name '{name}'; {expected_one_of(name, sorted(table))}")
        return _load(f"{table[name]}:{name}")

    return import_name


def config_of(target: str) -> type:
    """The frozen `Config` of settings in the module of a table entry, without importing that module.

    If the module is not imported yet, only the class is executed, with the imports and constants that it uses, so that
    settings can be checked without torch.
    """
    module = sys.modules.get(target.split(":")[0])
    return _read_config(target) if module is None else cast(type, vars(module)["Config"])


def cards_of(target: str) -> Any:
    """The table `CARDS` in the module of a table entry, without importing that module; see `config_of`."""
    module = sys.modules.get(target.split(":")[0])
    return _execute(target, "CARDS") if module is None else vars(module)["CARDS"]


@functools.cache
def _read_config(target: str) -> type:
    config = cast(type, _execute(target, "Config"))
    config.__reduce__ = functools.partialmethod(_reduce, target)  # type: ignore[assignment]
    return config


@functools.cache
def _execute(target: str, name: str) -> Any:
    """What a name stands for in the module of a table entry; only its definition is executed, and what that uses."""
    start = rf".*?^(?:class )?{name}\b.*?(?=^[^\s}})\]]|\Z)"
    source = re.match(start, source_of(target).read_text(encoding="utf-8"), re.S | re.M)
    assert source, f"the module of '{target}' has no {name}"
    *nodes, wanted = ast.parse(source.group()).body
    parts = [wanted]
    used = _names_in(wanted)
    for node in reversed(nodes):
        part = _only(node, used)
        parts[:0] = part
        used.update(*map(_names_in, part))
    names: dict[str, Any] = {"__name__": target.split(":")[0]}
    exec(compile(ast.Module(parts, []), f"{target} {name}", "exec", dont_inherit=True), names)
    return names[name]


def _bound(node: ast.stmt) -> set[str]:
    """Names that a class or an assignment binds."""
    if isinstance(node, ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _reduce(config: Any, target: str) -> Any:
    """For pickle, which would look up the class in its module and find a different one."""
    return _rebuild, (target, vars(config))


def _rebuild(target: str, values: dict[str, Any]) -> Any:
    return config_of(target)(**values)


def _names_in(node: ast.AST) -> set[str]:
    names = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


def _only(node: ast.stmt, used: Collection[str]) -> list[ast.stmt]:
    """The part of an import or assignment that binds some of these names."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        node.names = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in used]
        return [node] if node.names else []
    return [] if isinstance(node, ast.ClassDef) or not _bound(node) & set(used) else [node]


def summary(target: str) -> str:
    """First docstring line of a table entry's module, without importing it."""
    doc = ast.get_docstring(_read_source(target)) or ""
    return doc.split("\n", 1)[0]


def constant(target: str, name: str, default: str | None = None) -> str:
    """The value of `name = "…"` in the class of a table entry, as text, without importing its module.

    Raises:
        UnknownNameError: if the class does not declare it and there is no default.
    """
    for node in ast.walk(_read_source(target)):
        if isinstance(node, ast.ClassDef) and node.name == target.split(":")[1]:
            for line in node.body:
                if isinstance(line, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in line.targets):
                    return str(ast.literal_eval(line.value))
    if default is not None:
        return default
    raise UnknownNameError(f"'{target}' declares no '{name}'. Write it as text in the body of the class.")


def _read_source(target: str) -> ast.Module:
    return ast.parse(source_of(target).read_text(encoding="utf-8"))


def source_of(target: str) -> Path:
    """The file of a table entry, without importing it."""
    module = target.split(":")[0]
    package, _, leaf = module.rpartition(".")
    folder = importlib.util.find_spec(package)
    assert folder is not None
    assert folder.submodule_search_locations
    return Path(next(iter(folder.submodule_search_locations))) / f"{leaf}.py"


def encode_trial_id(trial_id: str) -> str:
    """File name of a trial: percent-encoded, so that no id can leave its folder or be hidden.

    >>> encode_trial_id("video 59/left"), encode_trial_id("..")
    ('video%2059%2Fleft', '%2E%2E')

    Raises:
        UnknownNameError: if the id is empty or its file name would exceed 240 bytes.
    """
    encoded = quote(trial_id, safe="")
    if encoded.startswith("."):
        encoded = encoded.replace(".", "%2E")
    if not encoded or len(encoded) > _LONGEST_FILE_NAME:
        raise UnknownNameError(
            f"Trial id '{trial_id[:60]}' makes a file name of {len(encoded)} bytes; expected 1 to "
            f"{_LONGEST_FILE_NAME}. Rename the trial."
        )
    return encoded


def decode_trial_id(file_name: str) -> str:
    """Inverse of `encode_trial_id`."""
    return unquote(file_name)
