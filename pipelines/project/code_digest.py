"""Digest of code, in part without its documentation.

Only the standard library is imported here, and the digest is the same in Python 3.11 to 3.13, so that colleagues get the same.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Seen = dict[str, list[str]]
"""What was found in files before, by their content: the digest of the code, and names of modules that it imports."""


def digest_code(modules: Iterable[str], root: Path, seen: Seen | None = None) -> str:
    """Digest of some modules and of all modules below the root that they import, also inside functions.

    Comments, docstrings and layout do not count. `__init__` files, some of which are tables of names, are left out, so that a new
    entry does not change the digests of others.

    Args:
        modules: absolute names, such as "fusion.training.trainer".
        root: folder of the packages.
        seen: spares parsing, which takes half a second; what is parsed is added.
    """
    seen = {} if seen is None else seen
    found: dict[str, str] = {}
    left = list(modules)
    while left:
        module = left.pop()
        path = root.joinpath(*module.split(".")).with_suffix(".py")
        if module not in found and path.is_file():
            found[module], *imported = _read(path, seen)
            left += imported
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Digest of one file's code, whatever it imports."""
    return _read(path, {})[0]


def digest_folder(folder: Path) -> str:
    """Digest of everything in a folder and below, byte for byte, which takes milliseconds; compiled code does not count."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    contents = [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def _read(path: Path, seen: Seen) -> list[str]:
    """Digest of a file's code, and the names of modules that it imports."""
    content = path.read_bytes()
    key = hashlib.sha256(_own_source() + content).hexdigest()
    if not seen.get(key):
        tree = ast.parse(content)
        seen[key] = [hashlib.sha256(repr(_plain(tree)).encode()).hexdigest(), *_imported(tree)]
    return seen[key]


@functools.cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


def _imported(tree: ast.Module) -> list[str]:
    """Names of modules that may be imported: for `from a import b` both `a` and `a.b`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _plain(node: Any) -> Any:
    """A syntax tree as lists, without docstrings and details that differ between versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_text(item)]
    if isinstance(node, ast.AST):
        fields = [(name, _plain(value)) for name, value in ast.iter_fields(node)]
        return [type(node).__name__, *((name, value) for name, value in fields if value not in (None, []))]
    return None if node is None else repr(node)


def _is_text(node: Any) -> bool:
    """Whether a statement is a docstring, or a string that documents the line before it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
