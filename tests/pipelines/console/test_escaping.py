"""No name writes on the terminal what it likes, whatever its encoding, and nothing crashes for one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.recipe import Recipe
from cache.store.receipt import Receipt
from cache.store.store import FeatureStore
from pipelines.cli.commands import avfusion, extract_features
from pipelines.console import console
from pipelines.console.escaping import encodable, json_text, printable

ROOT = Path(__file__).parents[3]
EVIL = "a\x1b[31m\x9b2J\x7f\r\u202eb\u2066\u200b\ufeff\u2028\u3164\udcff\U000e0041 ok"
SAFE = r"a\x1b[31m\x9b2J\x7f\r\u202eb\u2066\u200b\ufeff\u2028\u3164\udcff\U000e0041 ok"


def run_process(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    settings = {"PYTHONUTF8": "0", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments], env=settings, capture_output=True, timeout=60
    )


def command(call: Callable[[], object]) -> click.Command:
    @click.command(cls=console.Command)
    @click.argument("name", required=False)
    @console.guarded
    def run(name: str | None) -> None:
        call()

    return run


def test_printable() -> None:
    assert printable(EVIL) == SAFE
    assert printable("Zoë 日本 🙂 – ±\ttab\nline") == "Zoë 日本 🙂 – ±\ttab\nline"
    assert printable("a\tb\nc", keep="") == r"a\tb\nc"


@pytest.mark.parametrize("ascii_only", [False, True])
def test_json_stays_json(ascii_only: bool) -> None:
    value = {EVIL: [EVIL, "Zoë"], "b": 1.5}
    text = json_text(value, ascii_only)
    assert json.loads(text) == value
    assert printable(text) == text
    assert text.isascii() == ascii_only
    assert ("Zoë" in text) != ascii_only


def test_encodings_that_lack_characters() -> None:
    assert encodable("Zoë 日", "ascii") == r"Zo\xeb \u65e5"
    assert encodable("Zoë 日", "latin-1") == r"Zoë \u65e5"
    assert encodable("Zoë 日", None) == encodable("Zoë 日", "utf-8") == "Zoë 日"
    assert encodable("é", "no such encoding") == r"\xe9"


def refuse() -> None:
    raise CorpusError(f"Trial '{EVIL}' is bad.\nSo it is.")


def warn_in_all_ways() -> None:
    console.warn(EVIL)
    console.note(EVIL)
    warnings.simplefilter("always")
    warnings.warn_explicit(EVIL, UserWarning, "file", 1)
    warnings.warn_explicit(EVIL, DeprecationWarning, f"{EVIL}.py", 1)
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.LogRecord("a", logging.WARNING, "", 1, "%s", (EVIL,), None))


def show_table() -> None:
    console.show([{EVIL: f"{EVIL}\nError: forged", "n": 3}], as_json=False)


@pytest.mark.parametrize("call", [refuse, warn_in_all_ways, show_table])
def test_every_path_to_the_terminal_escapes(call: Callable[[], object]) -> None:
    result = CliRunner().invoke(command(call), color=True)
    assert SAFE in result.output
    assert printable(result.output) == result.output
    assert result.exit_code == (call is refuse)
    if call is show_table:
        assert rf"{SAFE}\nError: forged  3" in result.stdout.splitlines()


def test_tables_as_json_escape() -> None:
    result = CliRunner().invoke(command(lambda: console.show([{"a": EVIL, "b": float("nan")}], True)), color=True)
    assert json.loads(result.stdout) == [{"a": EVIL, "b": None}]
    assert printable(result.stdout) == result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--{EVIL}"],
        [EVIL],
        ["cache", EVIL],
        ["cache", "ls", f"--{EVIL}"],
        ["cache", "ls", EVIL],
        ["cache", "export", "a", f"s3://{EVIL}", "--to", "npy"],
        ["cache", "export", "a", "b", "--to", EVIL],
        ["list", EVIL],
        ["extract", "--backbone", EVIL],
        ["corpus", "check", ".", "--corpus", EVIL],
    ],
)
def test_what_click_says_of_a_wrong_command_line_is_escaped(arguments: list[str]) -> None:
    result = CliRunner().invoke(avfusion, arguments, color=True)
    assert result.exit_code == 2
    assert printable(result.output) == result.output
    assert "\\x1b[31m" in result.stderr


def test_scripts_of_their_own_escape_too() -> None:
    result = CliRunner().invoke(extract_features, [f"--{EVIL}"], color=True)
    assert (result.exit_code, printable(result.output)) == (2, result.output)
    assert isinstance(avfusion, console.Group)
    waiting: list[click.Command] = [avfusion]
    while waiting:
        found = waiting.pop()
        assert isinstance(found, console.Group | console.Command), found.name
        waiting += found.commands.values() if isinstance(found, click.Group) else []


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}],
)
def test_terminals_of_other_encodings(tmp_path: Path, environment: dict[str, str]) -> None:
    store = FeatureStore.create(tmp_path / "my.zarr", Recipe("my", "audio", 2, {"note": "日本 ±"}))
    store.write("Zoë 日本", np.ones((3, 2)), np.ones(3, bool), source="s", clock=FrameClock(Fraction(25), 3))
    Receipt.of(store, store.trial_ids()).save(tmp_path / "receipts/my.json")
    shown = run_process("cache", "info", "my", "--features", str(tmp_path), **environment)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"\\u65e5\\u672c" in shown.stdout
    document = run_process("cache", "info", "my", "--features", str(tmp_path), "--json", **environment)
    assert document.stdout.isascii()
    assert json.loads(document.stdout)["trials"][0]["trial"] == "Zoë 日本"
    failed = run_process("cache", "info", "ö日", "--features", str(tmp_path), **environment)
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"Error: '")
    assert failed.stderr.count(b"\n") == 1


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    failed = run_process("cache", "import", os.fsencode(tmp_path) + b"/\xff\x1b.h5", "--from", "hdf5")
    assert (failed.returncode, failed.stderr.count(b"\n")) == (1, 1)
    assert b"\\udcff\\x1b.h5' does not exist" in failed.stderr


def test_tracebacks_are_escaped(tmp_path: Path) -> None:
    failed = run_process("cache", "import", os.fsencode(tmp_path) + b"/\x1b.h5", "--from", "hdf5", "--debug")
    assert failed.returncode == 1
    assert b"Traceback" in failed.stderr
    assert b"\x1b" not in failed.stderr
