"""A program that runs extractions in processes of their own, for tests that kill them.

It imports torch once and forks a process per line of JSON on its standard input, so that thirty killed extractions
cost seconds. It answers each line with one of its own: `{"pid": …}` for a start, `{"code": …, "result": …}` for a wait.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import cache.places.folders as places
from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.store.receipt import Receipt
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.embedding import EngineOptions, extract_features

RATE = 25


def read_corpus(folder: Path, ids: dict[str, str] | None) -> Manifest:
    """Every wav file of a folder as a trial; `ids` renames them."""
    trials = []
    for path in sorted(folder.glob("*.wav")):
        num_frames = (path.stat().st_size - 44) // 2 * RATE // 16_000
        name = (ids or {}).get(path.stem, path.stem)
        trials.append(Trial(name, "someone", "train", FrameClock(Fraction(RATE), num_frames), {"audio": path.name}))
    return Manifest(folder, tuple(trials))


def die_at(step: int) -> None:
    """SIGKILL this process in the middle of its file operation of this number."""
    count = 0

    def dying(original: Any) -> Any:
        def run(path: Path, *content: Any) -> None:
            nonlocal count
            count += 1
            if count - 1 == step:
                if content:
                    path.write_bytes(bytes(content[0])[: len(content[0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, *content)

        return run

    for name in ("_write_synced", "sync_folder"):
        setattr(places, name, dying(getattr(places, name)))


def slow_down(seconds: float) -> None:
    """Make every write take a while, so that two runs meet."""

    def slow(original: Any) -> Any:
        def run(*arguments: Any) -> None:
            time.sleep(seconds)
            original(*arguments)

        return run

    for kind in (places.LocalFolder, places.RemoteFolder):
        kind.write_array = slow(kind.write_array)  # type: ignore[method-assign]


def extract(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order: extract a corpus with the 1-D CNN and write the receipt."""
    if order.get("die_at") is not None:
        die_at(order["die_at"])
    if order.get("slow"):
        slow_down(order["slow"])
    manifest = read_corpus(Path(order["corpus"]), order.get("ids"))
    backbone = load_backbone("conv1d", order.get("weights", "random"), {"window_s": 0.1})  # short windows are quick
    os.environ.update(order.get("env", {}))
    features = order["features"]
    store = FeatureStore.create(f"{features}/conv1d.zarr", backbone.recipe())
    trials = manifest.trials[::-1] if order.get("backwards") else manifest.trials
    outcome = extract_features(backbone, store, manifest, trials, None, EngineOptions(batch_size=16))
    if not outcome.failures:
        Receipt.of(store, [trial.id for trial in manifest.trials]).save(f"{features}/conv1d.json")
    return {"computed": outcome.computed, "kept": outcome.kept, "failures": outcome.failures}


def start(order: dict[str, Any]) -> int:
    """Fork a process that carries out an order and writes what became of it to a file."""
    pid = os.fork()
    if pid:
        return pid
    code, result = 0, None
    try:
        import torch

        torch.set_num_threads(1)
        result = extract(order)
    except BaseException as error:
        code, result = 1, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    Path(order["result"]).write_text(json.dumps(result), encoding="utf-8")
    os._exit(code)


def main() -> None:
    """Answer orders until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": start(order)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
