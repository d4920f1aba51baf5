"""What the workers of the tests run; a module of its own, because they import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.errors import StoreError


def open_runner(device: str) -> Callable[[list[Any], Any], dict[str, Any]]:
    """Works on words: "kill" ends the process, "full" is an error, "wait" takes a minute, "once:FILE" ends the process the first time."""
    opened = len(list(Path("opened").iterdir())) if Path("opened").is_dir() else 0
    Path("opened").mkdir(exist_ok=True)
    Path(f"opened/{os.getpid()}-{opened}").touch()

    def run(words: list[str], told: Callable[[str, int, str], None]) -> dict[str, Any]:
        for word in words:
            if word == "full":
                raise StoreError("The disk is full. Free some.")
            if word == "wait":
                time.sleep(60)
            if word == "kill" or (word.startswith("once:") and not Path(word[5:]).exists()):
                Path(word[5:] or "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            told("words", 1, word)
        return {"words": words, "device": device, "pid": os.getpid(), "folder": os.getcwd()}

    return run
