"""Stage `crops`: crops that come with a corpus are used as they are; a reference picture decides whom to follow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from extract.engine import claim_queue, cropping
from extract.engine.cropping import crop_trials, crops_folder
from extract.faces.crop_files import CropReader
from extract.faces.crop_records import read_crop_record
from extract.faces.detection import TEMPLATE, Detection
from extract.faces.settings import CropConfig
from extract.inputs.images import crops_path
from pipelines.stages import crops as stage
from pipelines.stages.crops import make_crops
from tests.detectors import by_search

CLOCK = FrameClock(Fraction(25), 12)


def find_halves(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face in the left and one in the right half of every picture."""
    found = []
    for picture in pictures:
        height, width = picture.shape[0], picture.shape[1] // 2
        boxes = np.array([[at, 0, at + width, height] for at in (0, width)], np.float32)
        marks = np.stack([TEMPLATE * width / 112 + np.array([at, 0]) for at in (0, width)]).astype(np.float32)
        found.append(Detection(boxes, np.ones(2, np.float32), marks))
    return found


def draw_halves(left: int, right: int) -> NDArray[np.uint8]:
    return np.repeat(np.array([[[left] * 3] * 64 + [[right] * 3] * 64], np.uint8), 64, axis=0)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A trial that follows the bright one of two people, and one that comes with crops."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "gray"
        for _ in range(CLOCK.num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_halves(60, 200), format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(draw_halves(200, 200)).save(tmp_path / "who.png")
    (tmp_path / "own").mkdir()
    Image.fromarray(draw_halves(9, 9)).save(tmp_path / "own" / "00003.jpg")
    alike = Trial("alike", "1", "", CLOCK, {"video": "v.mkv", "face": "who.png"}, face="reference")
    given = Trial("given", "2", "", CLOCK, {"video": "v.mkv", "crops": "own"})
    return Manifest(tmp_path, (alike, given))


def test_given_crops_stay_and_the_reference_is_followed(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def make_embedder(weights: str, device: str) -> object:
        asked.append(weights)
        return lambda faces: np.stack([(f := faces[:, 80, 80, 0].astype(np.float32)) - 130, f - 200], axis=1)

    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(find_halves))
    monkeypatch.setattr(cropping, "make_embedder", make_embedder)
    config = CropConfig(reference_weights="mine")
    outcome = crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu")
    assert (outcome.computed, outcome.kept, outcome.failures, asked) == (["alike"], [], {}, ["mine"])
    folder = crops_folder(tmp_path / "crops", config)
    assert [path.name for path in folder.iterdir()] == ["alike.zip"]
    alike, given = manifest.trials
    crops = CropReader(crops_path(manifest, alike, folder), CLOCK)
    assert abs(float(crops.read(np.array([5]))[0, 56, 56, 0]) - 200) < 6
    assert CropReader(crops_path(manifest, given, folder), CLOCK).frames.tolist() == [2]
    assert crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu").kept == ["alike"]
    assert len(asked) == 1
    Image.fromarray(draw_halves(60, 60)).save(tmp_path / "who.png")
    assert crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu").computed == ["alike"]
    assert abs(float(CropReader(folder / "alike.zip", CLOCK).read(np.array([5]))[0, 56, 56, 0]) - 60) < 6


def test_a_missing_picture_fails_that_trial_only(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "who.png").unlink()
    outcome = crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / "crops", "cpu")
    assert "who.png" in outcome.failures["alike"]


def slow_halves(seconds: float) -> object:
    """A detector that takes its time, and is asked anew for every video."""

    def find(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        time.sleep(seconds)
        return find_halves(pictures)

    return lambda *_: by_search(find)


def videos(manifest: Manifest, names: str) -> Manifest:
    """Trials that each show a copy of the video."""
    first = replace(manifest.trials[0], face="right")
    for name in names:
        shutil.copy(manifest.root / "v.mkv", manifest.root / f"{name}.mkv")
    return replace(manifest, trials=tuple(replace(first, id=name, media={"video": f"{name}.mkv"}) for name in names))


@pytest.mark.filterwarnings("ignore:Waiting for the crops")
def test_two_at_once_share_the_work(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every video is cropped once; both runs end with all of them."""
    monkeypatch.setattr(cropping, "make_detector", slow_halves(0.2))
    manifest, start = videos(manifest, "abcd"), threading.Barrier(2)

    def make(_: int) -> cropping.Outcome:
        start.wait()
        return crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / "crops", "cpu")

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(make, range(2)))
    assert sorted(outcomes[0].computed + outcomes[1].computed) == list("abcd")
    for outcome in outcomes:
        assert (sorted(outcome.computed + outcome.kept), outcome.failures) == (list("abcd"), {})
        assert outcome.computed
    folder = crops_folder(tmp_path / "crops", CropConfig())
    assert sorted(folder.parent.rglob("*")) == [folder, *(folder / f"{name}.zip" for name in "abcd")]


@pytest.mark.skipif(sys.platform != "linux", reason="the claim of a killed process ends with it on Linux")
def test_the_crops_of_a_killed_run_are_taken_over(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(find_halves))
    manifest, folder = videos(manifest, "ab"), crops_folder(tmp_path / "crops", CropConfig())
    folder.mkdir(parents=True)
    program = (
        "import pathlib, time; from cache.store.locks import claim; from extract.faces.crops import _temporary; "
        f"folder = pathlib.Path({str(folder)!r}); held = claim(folder, 'a'); "
        "_temporary(folder / 'a.zip').write_bytes(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    root = Path(cropping.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        monkeypatch.setattr(claim_queue, "PATIENCE_S", 0.3)
        with pytest.warns(UserWarning, match="Waiting for the crops of 1 trial of"):
            outcome = crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / "crops", "cpu")
        assert outcome.computed == ["b"]
        assert f"taken by process {other.pid}" in outcome.failures["a"]
        assert "and free when that ends. Then run again." in outcome.failures["a"]
        other.kill()
    outcome = crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / "crops", "cpu")
    assert (outcome.computed, outcome.kept) == (["a"], ["b"])
    assert sorted(folder.parent.rglob("*")) == [folder, folder / "a.zip", folder / "b.zip"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.usefixtures("project")
def test_crops_on_cuda_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    manifest = Manifest.load(Path("work/corpus"))
    for device in ("cpu", "cuda"):
        outcome = crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / device, device)
        assert not outcome.failures
    for trial in manifest.trials:
        both = [crops_folder(tmp_path / device, CropConfig()) / f"{trial.id}.zip" for device in ("cpu", "cuda")]
        readers = [CropReader(path, trial.clock) for path in both]
        assert readers[0].frames.tolist() == readers[1].frames.tolist()
        one, other = (reader.read(reader.frames).astype(int) for reader in readers)
        assert np.abs(one - other).max(axis=(1, 2, 3)).mean() < 2, (
            "a landmark that is off by 1/32 pixel changes edges a little"
        )


@pytest.mark.usefixtures("project")
def test_crops_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """A colleague with another machine makes the same crops; without rounding two thirds of these digests differ."""
    manifest = Manifest.load(Path("work/corpus"))
    digests = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            crop_trials(manifest, manifest.trials, CropConfig(), tmp_path / str(threads), "cpu")
        finally:
            torch.set_num_threads(before)
        folder = crops_folder(tmp_path / str(threads), CropConfig())
        records = [read_crop_record(folder / f"{trial.id}.zip") for trial in manifest.trials]
        digests.append([record["digest"] for record in records if record is not None])
    assert digests[0] == digests[1]
    assert len(digests[0]) == len(manifest.trials)


@pytest.mark.usefixtures("project")
def test_several_processes_make_the_crops_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each trial is made once, also with --redo; what a process leaves that dies is made in the end."""
    manifest, config = Manifest.load(Path("work/corpus")), CropConfig()
    ids = {trial.id for trial in manifest.trials}

    def digests(workers: int, redo: bool = False) -> list[object]:
        root = tmp_path / str(workers)
        outcome = make_crops(manifest, config, root, "cpu", redo, workers=workers)
        assert (sorted(outcome.computed), outcome.kept, outcome.failures) == (sorted(ids), [], {})
        assert outcome.frames == sum(trial.clock.num_frames for trial in manifest.trials)
        records = [read_crop_record(crops_folder(root, config) / f"{name}.zip") for name in sorted(ids)]
        return [record["digest"] for record in records if record is not None]

    alone = digests(1)
    assert len(alone) == len(ids)
    assert digests(2) == alone
    assert digests(2, redo=True) == alone
    assert make_crops(manifest, config, tmp_path / "2", "cpu", workers=2).kept == [t.id for t in manifest.trials]

    def die(trials: Sequence[Trial], make: object, workers: int, own: Callable[[Trial], cropping.Outcome]) -> None:
        own(trials[0])
        raise BrokenProcessPool

    monkeypatch.setattr(stage, "run_jobs", die)
    outcome = make_crops(manifest, config, tmp_path / "3", "cpu", workers=3)
    assert (outcome.kept, {*outcome.computed, *outcome.kept}) == ([manifest.trials[0].id], ids)
    assert "ended early" in capsys.readouterr().err


def test_damaged_crops_are_made_again(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bit flips in a zip, the next run notices; --redo makes it again in any case."""
    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(find_halves))
    manifest, config, crops = videos(manifest, "a"), CropConfig(), tmp_path / "crops"
    crop_trials(manifest, manifest.trials, config, crops, "cpu")
    path = crops_folder(crops, config) / "a.zip"
    whole = path.read_bytes()
    assert crop_trials(manifest, manifest.trials, config, crops, "cpu", redo=True).computed == ["a"]
    assert path.read_bytes() == whole
    places = [*range(0, 60, 7), *np.random.default_rng(3).integers(0, len(whole), 30), *range(-700, 0, 23)]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << (int(place) % 8)
        path.write_bytes(content)
        source = cropping.sha256_file(tmp_path / "v.mkv")
        assert not cropping.has_crops(manifest, manifest.trials[0], config, path.parent, source), place
    path.write_bytes(whole[:-1])
    outcome = crop_trials(manifest, manifest.trials, config, crops, "cpu")
    assert (outcome.computed, path.read_bytes()) == (["a"], whole)
