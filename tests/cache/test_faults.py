"""Faults that the store survives, each with real processes and real signals.

After each one: nothing unfinished is readable, nothing finished is lost, the next run completes, and its receipt is
the one of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import FingerprintError, StoreError
from cache.places.folders import Where, open_folder
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore, fingerprints
from cache.store.verification import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and tmpfs are those of Linux")
FRAMES = 40
TRIALS = ("a", "b", "c")


class Drive:
    """Runs extractions in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = Path(__file__).parent / "faults" / "drive.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._orders = 0
        self._results: dict[int, Path] = {}

    def start(self, corpus: Path, features: Where, **order: Any) -> int:
        """Start an extraction; returns its process id."""
        self._orders += 1
        result = self._folder / f"{self._orders}.json"
        answer = self._ask({"corpus": str(corpus), "features": str(features), "result": str(result), **order})
        self._results[answer["pid"]] = result
        return answer["pid"]

    def wait(self, pid: int) -> tuple[int, dict[str, Any]]:
        """Wait for it; returns the exit code (negative for a signal) and what became of the trials."""
        code = self._ask({"wait": pid})["code"]
        path = self._results.pop(pid)
        return code, json.loads(path.read_text()) if path.exists() else {}

    def run(self, corpus: Path, features: Where, **order: Any) -> tuple[int, dict[str, Any]]:
        """Start and wait."""
        return self.wait(self.start(corpus, features, **order))

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    program = Drive(tmp_path_factory.mktemp("results"))
    yield program
    program.close()


def write_sound(path: Path, seed: int, num_frames: int = FRAMES) -> None:
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, num_frames * 640).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed, name in enumerate(TRIALS):
        write_sound(folder / f"{name}.wav", seed)
    return folder


@pytest.fixture(scope="module")
def undisturbed(drive: Drive, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The receipt of a run that nothing happened to."""
    features = tmp_path_factory.mktemp("undisturbed")
    code, result = drive.run(corpus, features)
    assert (code, result.get("computed")) == (0, list(TRIALS)), result
    return (features / "conv1d.json").read_bytes()


def spec_of(receipt: bytes) -> str:
    return json.loads(receipt)["fingerprint"]


def finished(features: Path, receipt: bytes) -> dict[str, bytes]:
    """Every trial that can be read, checked, with its bytes."""
    path = features / "conv1d.zarr"
    if spec_of(receipt) not in fingerprints(path):
        return {}
    store = FeatureStore(path, spec_of(receipt))
    return {i: store.read(i, check=True).embeddings.tobytes() for i in store.trial_ids()}


def recover(drive: Drive, corpus: Path, features: Path, receipt: bytes) -> dict[str, Any]:
    """Run again, and check that nothing finished was lost and all is as if nothing had happened."""
    before = finished(features, receipt)
    code, result = drive.run(corpus, features)
    assert code == 0, result
    assert (features / "conv1d.json").read_bytes() == receipt
    after = finished(features, receipt)
    assert sorted(after) == list(TRIALS)
    assert all(after[trial_id] == content for trial_id, content in before.items())
    assert sorted(result["computed"]) == sorted(set(TRIALS) - set(before))
    assert not list(features.rglob(".*"))
    open_receipt(features / "conv1d.json")
    return result


@pytest.mark.slow
def test_sigkill_at_many_steps_of_the_writes(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    seen: set[int] = set()
    for step in range(0, 200, 2):
        features = tmp_path / str(step)
        code, _ = drive.run(corpus, features, die_at=step)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen.add(len(finished(features, undisturbed)))
        recover(drive, corpus, features, undisturbed)
    assert step > 12
    assert {0, 1, 2} <= seen


def test_sigkill_from_outside(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    for wait_s in (0.05, 0.12, 0.2):
        features = tmp_path / str(wait_s)
        pid = drive.start(corpus, features, slow=0.05)
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        assert drive.wait(pid)[0] == -signal.SIGKILL
        assert not (features / "conv1d.json").exists()
        recover(drive, corpus, features, undisturbed)


def test_two_at_once_share_the_work(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """Each trial is computed once; which process gets it, or whether one only waits, is a matter of luck."""
    pids = [drive.start(corpus, tmp_path, slow=0.2) for _ in range(2)]
    (code_a, first), (code_b, second) = (drive.wait(pid) for pid in pids)
    assert (code_a, code_b) == (0, 0), (first, second)
    assert sorted(first["computed"] + second["computed"]) == list(TRIALS)
    assert sorted(first["computed"] + first["kept"]) == sorted(second["computed"] + second["kept"]) == list(TRIALS)
    assert (tmp_path / "conv1d.json").read_bytes() == undisturbed
    assert not list(tmp_path.rglob(".*"))


def test_of_two_at_once_one_is_killed(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """The kernel ends the dead one's claims, and the other one does its trials too."""
    doomed = drive.start(corpus, tmp_path, slow=5)
    time.sleep(0.3)
    other = drive.start(corpus, tmp_path, backwards=True, slow=0.3)
    time.sleep(0.3)
    os.kill(doomed, signal.SIGKILL)
    assert drive.wait(doomed)[0] == -signal.SIGKILL
    code, result = drive.wait(other)
    assert code == 0, result
    assert sorted(result["computed"]) == list(TRIALS)
    recover(drive, corpus, tmp_path, undisturbed)


def test_on_an_object_store_too(drive: Drive, corpus: Path, undisturbed: bytes, s3: str) -> None:
    """One of two is killed while it holds lock objects; the other one notices, finishes, and the receipt is the same."""
    features = f"{s3}/shared"
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    doomed = drive.start(corpus, features, slow=30, env=env)
    locks = open_folder(f"{features}/.conv1d.zarr.locks")
    for _ in range(200):
        if locks.sizes():
            break
        time.sleep(0.05)
    assert drive.run(corpus, f"{s3}/alone", env=env)[0] == 0
    other = drive.start(corpus, features, backwards=True, env=env)
    time.sleep(1)
    os.kill(doomed, signal.SIGKILL)
    assert drive.wait(doomed)[0] == -signal.SIGKILL
    code, result = drive.wait(other)
    assert code == 0, result
    assert sorted(result["computed"]) == list(TRIALS)
    for name in ("shared", "alone"):
        assert open_folder(f"{s3}/{name}").read("conv1d.json") == undisturbed
    store, receipt = open_receipt(f"{features}/conv1d.json")
    assert all(store.read(trial_id, check=True) for trial_id in receipt.trials)
    assert not locks.sizes()
    code, result = drive.run(corpus, features, env=env)
    assert (code, sorted(result["kept"])) == (0, list(TRIALS))


def test_a_stale_lock_of_another_machine_is_named(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can ask a process on another machine; the trial fails with the file to delete, the others are finished."""
    pytest.importorskip("torch")
    from extract.backbones.contract import load_backbone
    from extract.engine import claim_queue
    from extract.engine import embedding as engine

    monkeypatch.setattr(claim_queue, "PATIENCE_S", 0.3)
    backbone = load_backbone("conv1d", "random")
    store = FeatureStore.create("memory://stale/conv1d.zarr", backbone.recipe())
    lock = f"{store.recipe.fingerprint[:8]}.b.lock"
    locks = open_folder("memory://stale/.conv1d.zarr.locks")
    locks.write(lock, b'{"pid": 7, "host": "elsewhere", "since": "2026-11-21T04:00:00+00:00"}')
    manifest = read_corpus(corpus)
    options = engine.EngineOptions(batch_size=16)
    with pytest.warns(
        UserWarning, match="Waiting for the embeddings of 1 trial of another process; 'b' is taken by process 7"
    ):
        outcome = engine.extract_features(backbone, store, manifest, manifest.trials, None, options)
    assert sorted(outcome.computed) == ["a", "c"]
    assert outcome.failures["b"].endswith(f"delete 'memory://stale/.conv1d.zarr.locks/{lock}'. Then run again.")
    locks.remove(lock)
    outcome = engine.extract_features(backbone, store, manifest, manifest.trials, None, options)
    assert (outcome.computed, sorted(outcome.kept)) == (["b"], ["a", "c"])


def read_corpus(folder: Path) -> Manifest:
    clock = FrameClock(Fraction(25), FRAMES)
    trials = (Trial(name, "someone", "train", clock, {"audio": f"{name}.wav"}) for name in TRIALS)
    return Manifest(folder, tuple(trials))


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size."""
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip(f"mounting a small tmpfs is not allowed here: {made.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # what was mapped may still be open


def test_disk_full(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "ballast").write_bytes(bytes(20_000))
        code, result = drive.run(corpus, disk)
        assert code == 1
        assert "StoreError" in result["error"]
        assert "No space left on device" in result["error"]
        assert "Finished trials are kept" in result["error"]
        kept = finished(disk, undisturbed)
        assert 0 < len(kept) < len(TRIALS)
        assert not (disk / "conv1d.json").exists()
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        recover(drive, corpus, disk, undisturbed)


def test_read_only(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """What is there can be read and is kept; what is not gives a sentence."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        assert drive.run(corpus, disk)[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store, receipt = open_receipt(disk / "conv1d.json")
        assert all(store.read(trial_id, check=True) for trial_id in receipt.trials)
        other = tmp_path / "other"
        shutil.copytree(corpus, other)
        write_sound(other / "a.wav", 77)
        code, result = drive.run(other, disk)
        assert code == 1
        assert result["error"].startswith("StoreError: ")
        assert "Read-only file system" in result["error"]
        assert sorted(finished(disk, undisturbed)) == list(TRIALS)
        code, result = drive.run(corpus, tmp_path / "disk" / "new")
        assert (code, "No features can be written" in result["error"]) == (1, True), result
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        recover(drive, corpus, disk, undisturbed)


def made_store(drive: Drive, corpus: Path, features: Path) -> FeatureStore:
    code, result = drive.run(corpus, features)
    assert code == 0, result
    return open_receipt(features / "conv1d.json")[0]


def test_a_flipped_byte(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """Verify finds it, training refuses it, and once it is dropped the next run computes it again."""
    pytest.importorskip("torch")
    from fusion.bank.bank import Bank

    store = made_store(drive, corpus, tmp_path / "audio")
    chunk = Path(store.group) / "b/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[4321] ^= 1
    chunk.write_bytes(content)
    (finding,) = verify(tmp_path, read_corpus(corpus))
    assert (finding.trial, finding.damaged) == ("b", True)
    with pytest.raises(StoreError, match="trial 'b' .* differ from their digest"):
        Bank.from_stores({"audio": open_receipt(tmp_path / "audio/conv1d.json")[0]}, read_corpus(corpus), TRIALS)
    assert FeatureStore(finding.store, finding.fingerprint).drop("b")
    assert verify(tmp_path, read_corpus(corpus))
    assert recover(drive, corpus, tmp_path / "audio", undisturbed)["computed"] == ["b"]
    assert verify(tmp_path, read_corpus(corpus)) == []


def test_a_truncated_chunk(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    store = made_store(drive, corpus, tmp_path)
    os.truncate(Path(store.group) / "b/c/0/0", 1000)
    with pytest.raises(StoreError, match="1000 bytes long, expected 10240 bytes"):
        store.read("b")
    code, result = drive.run(corpus, tmp_path)
    assert (code, result["computed"], sorted(result["kept"])) == (0, ["b"], ["a", "c"])
    assert (tmp_path / "conv1d.json").read_bytes() == undisturbed
    assert sorted(finished(tmp_path, undisturbed)) == list(TRIALS)


def test_a_changed_medium_under_the_same_name(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    made_store(drive, corpus, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    write_sound(other / "b.wav", 77)
    code, result = drive.run(other, tmp_path)
    assert (code, result["computed"], sorted(result["kept"])) == (0, ["b"], ["a", "c"])
    assert (tmp_path / "conv1d.json").read_bytes() != undisturbed
    (tmp_path / "old.json").write_bytes(undisturbed)
    (tmp_path / "old.zarr").symlink_to(tmp_path / "conv1d.zarr")
    with pytest.raises(FingerprintError, match="first: 'b'"):
        open_receipt(tmp_path / "old.json")
    code, result = drive.run(corpus, tmp_path)
    assert (code, result["computed"]) == (0, ["b"])
    assert (tmp_path / "conv1d.json").read_bytes() == undisturbed


def test_changed_weights_under_the_same_name(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from extract.backbones.contract import load_backbone

    weights = tmp_path / "weights.pt"
    network = load_backbone("conv1d", "random")
    receipts = []
    for scale in (1.0, 0.5, 1.0):
        torch.save({name: tensor * scale for name, tensor in network.body.state_dict().items()}, weights)
        code, result = drive.run(corpus, tmp_path, weights=str(weights))
        assert code == 0, result
        receipts.append((result, (tmp_path / "conv1d.json").read_bytes()))
    assert receipts[1][0]["computed"] == list(TRIALS)
    assert receipts[0][1] != receipts[1][1]
    assert len(fingerprints(tmp_path / "conv1d.zarr")) == 2
    assert receipts[2][0]["computed"] == []
    assert receipts[2][1] == receipts[0][1]
    recover(drive, corpus, tmp_path / "fresh", undisturbed)


def test_strange_ids(drive: Drive, corpus: Path, tmp_path: Path) -> None:
    ids = {"a": "../../escape me", "b": "日本/..", "c": "x" * 255}
    code, result = drive.run(corpus, tmp_path / "deep" / "down", ids=ids)
    assert code == 0
    assert sorted(result["computed"]) == sorted([ids["a"], ids["b"]])
    assert list(result["failures"]) == [ids["c"]]
    assert "255 bytes; expected 1 to 240. Rename the trial." in result["failures"][ids["c"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["down"]
    assert sorted(path.name for path in (tmp_path / "deep/down").iterdir()) == ["conv1d.zarr"]


def test_a_receipt_is_never_half_written(drive: Drive, corpus: Path, undisturbed: bytes, tmp_path: Path) -> None:
    made_store(drive, corpus, tmp_path)
    path = tmp_path / "conv1d.json"
    path.write_bytes(undisturbed[: len(undisturbed) // 2])
    with pytest.raises(StoreError, match="is damaged"):
        Receipt.load(path)
    assert drive.run(corpus, tmp_path)[1]["computed"] == []
    assert path.read_bytes() == undisturbed
