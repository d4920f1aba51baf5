"""Extraction as users run it: projects, loose media, bad media, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result

from cache.corpus.manifest import Manifest
from cache.store.feature_sets import store_of
from cache.store.receipt import open_receipt
from pipelines.stages import request

ROOT = Path(__file__).parents[3]
VISUAL, AUDIO = Path("features/receipts/mobilefacenet.json"), Path("features/receipts/conv1d.json")
Run = Callable[..., Result]


def rows(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def videos(project: Path) -> list[Path]:
    manifest = Manifest.load(project / "work/corpus")
    return [manifest.path(trial, "video") for trial in manifest.trials]


def test_every_frame_has_a_row_and_its_input(project: Path) -> None:
    manifest = Manifest.load(project / "work/corpus")
    for receipt_path, dim in ((VISUAL, 512), (AUDIO, 128)):
        store, receipt = open_receipt(receipt_path)
        assert list(receipt.trials) == [trial.id for trial in manifest.trials]
        for trial in manifest.trials:
            features = store.read(trial.id, check=True)
            assert features.embeddings.shape == (trial.clock.num_frames, dim)
            assert features.valid.mean() > 0.5
            assert not np.asarray(features.embeddings)[~features.valid].any()


def test_a_second_run_computes_nothing(project: Path, run: Run) -> None:
    before = VISUAL.read_bytes(), AUDIO.read_bytes()
    table = rows(run("extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", "--json"))
    assert [(row["computed"], row["kept"]) for row in table] == [(0, 3), (0, 3)]
    assert (VISUAL.read_bytes(), AUDIO.read_bytes()) == before


def test_redo_gives_the_same_receipt(project: Path, run: Run) -> None:
    before = AUDIO.read_bytes()
    assert rows(run("extract", "--backbone", "conv1d", "--redo", "--json"))[0]["computed"] == 3
    assert AUDIO.read_bytes() == before


def test_other_settings_keep_the_old_features(project: Path, run: Run, edit_params: Callable) -> None:

    before = AUDIO.read_bytes()
    edit_params(lambda params: params["extract"]["conv1d"].update(settings={"window_s": 0.25}))
    assert rows(run("extract", "--backbone", "conv1d", "--json"))[0]["computed"] == 3
    assert AUDIO.read_bytes() != before
    edit_params(lambda params: params["extract"]["conv1d"].update(settings={"window_s": 0.1}))
    assert rows(run("extract", "--backbone", "conv1d", "--json"))[0]["computed"] == 0
    assert AUDIO.read_bytes() == before


def test_another_runtime_keeps_what_is_finished(project: Path, run: Run, edit_params: Callable) -> None:
    """It runs what is computed from then on, and DVC does not run the stage for it."""
    assert run("plan").exit_code == 0
    plan = (project / "work/plan/extract/conv1d.json").read_bytes()
    before = AUDIO.read_bytes()
    edit_params(lambda params: params["extract"]["conv1d"].update(runtime="openvino"))
    assert run("plan").exit_code == 0
    assert (project / "work/plan/extract/conv1d.json").read_bytes() == plan
    assert rows(run("extract", "--backbone", "conv1d", "--json"))[0]["computed"] == 0
    assert AUDIO.read_bytes() == before
    known = open_receipt(AUDIO)[1]
    assert rows(run("extract", "--backbone", "conv1d", "--redo", "--json"))[0]["computed"] == 3
    receipt = open_receipt(AUDIO)[1]
    assert {trial.runtime for trial in receipt.trials.values()} == {"openvino"}
    assert receipt.recipe == known.recipe
    edit_params(lambda params: params["extract"]["conv1d"].update(runtime="tensorrt"))
    assert "'extract.conv1d.runtime' is 'tensorrt'" in run("plan").stderr


def test_a_changed_video_under_the_same_name_is_extracted_anew(project: Path, run: Run) -> None:
    one, other = videos(project)[:2]
    one.write_bytes(one.read_bytes() + b"\0\0\0\x08free")
    table = rows(run("extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", "--json"))
    assert [row["computed"] for row in table] == [0, 1]  # the crops are the same, the file of the sound is not
    assert other.is_file()


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "shifted"])
def test_a_bad_video_fails_alone_and_is_taken_up_again(project: Path, run: Run, kind: str) -> None:
    victim = videos(project)[0]
    good = victim.read_bytes()
    before = AUDIO.read_bytes()
    if kind == "missing":
        victim.unlink()
    elif kind == "shifted":
        manifest = Manifest.load(project / "work/corpus")
        first, *others = manifest.trials
        assert first.labels is not None
        clock = first.clock.resized(first.clock.num_frames + 5)
        labels = np.concatenate([first.labels[:5], first.labels])
        replace(manifest, trials=(replace(first, clock=clock, labels=labels), *others)).save(project / "work/corpus")
    else:
        victim.write_bytes({"empty": b"", "truncated": good[: len(good) // 2], "text": b"not a video"}[kind])
    result = run("extract", "--backbone", "conv1d", "--redo")
    assert result.exit_code == 1
    assert "1 of 3 trials failed" in result.stderr
    trial_id = Manifest.load(project / "work/corpus").trials[0].id
    failures = json.loads(store_of(AUDIO).with_suffix(".failures.json").read_text())
    assert list(failures) == [trial_id]
    assert failures[trial_id].rstrip().endswith(".")
    assert not AUDIO.exists()
    assert "Traceback" not in result.output
    if kind == "shifted":
        assert "run 'avfusion corpus build' again." in failures[trial_id]
        assert "a difference of 2 is allowed" in failures[trial_id]
        return
    victim.write_bytes(good)
    run("extract", "--backbone", "conv1d")
    assert AUDIO.read_bytes() == before
    assert not store_of(AUDIO).with_suffix(".failures.json").exists()


def test_a_bad_video_fails_alone_in_the_crops_too(project: Path, run: Run) -> None:
    for crops in (project / "work/crops").rglob("*.zip"):
        crops.unlink()
    before = VISUAL.read_bytes()
    victim = videos(project)[1]
    good = victim.read_bytes()
    victim.write_bytes(good[:1000])
    result = run("extract", "--backbone", "mobilefacenet")
    assert result.exit_code == 1
    assert "crops: 1 of 3 trials failed" in result.stderr
    assert len(list((project / "work/crops").rglob("*.zip"))) == 2
    victim.write_bytes(good)
    assert rows(run("crops", "--json"))[0] == {"computed": 1, "kept": 2, "frames": 60} | {
        "frames": Manifest.load(project / "work/corpus").trials[1].clock.num_frames
    }
    assert run("extract", "--backbone", "mobilefacenet").exit_code == 0
    assert VISUAL.read_bytes() == before


def test_sigkill_keeps_finished_trials_and_changes_nothing(project: Path, run: Run) -> None:
    """A real process, killed as soon as its first trial is finished; the receipt is then the undisturbed one."""
    assert (
        rows(run("extract", "--backbone", "mobilefacenet", "--batch-size", "4", "--redo", "--json"))[0]["computed"] == 3
    )
    before = VISUAL.read_bytes()
    store = store_of(VISUAL)
    for chunk in store.rglob("zarr.json"):
        if chunk.parent.parent.parent == store:
            chunk.unlink()
    VISUAL.unlink()
    threads = str(torch.get_num_threads())  # another number of threads may change the last bits
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "pipelines", "extract", "--backbone", "mobilefacenet", "--batch-size", "4"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = next(path for path in store.iterdir() if path.is_dir())
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(finished.glob("[!.]*/zarr.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not VISUAL.exists()
    table = rows(run("extract", "--backbone", "mobilefacenet", "--batch-size", "4", "--json"))
    assert table[0]["kept"] >= 1
    assert table[0]["kept"] + table[0]["computed"] == 3
    assert VISUAL.read_bytes() == before


def test_loose_media(project: Path, run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", np.sin(np.arange(32_000) / 20).astype(np.float32) * 0.5, 16_000)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    out = tmp_path / "out"
    arguments = ["extract", "--backbone", "conv1d", "--weights", "random", "--out", out, "--rate", "30000/1001"]
    result = run(*arguments, videos(project)[0], tmp_path / "speech.wav", broken)
    assert result.exit_code == 1
    assert "broken" in result.stderr
    assert "1 of 3 trials failed" in result.stderr
    store, receipt = open_receipt(out / "receipts/conv1d.json")
    assert len(receipt.trials) == 2
    assert receipt.trials["speech"].num_frames == 60
    assert store.read("speech").valid.mean() > 0.9


def test_loose_video_has_the_features_of_the_project(project: Path, run: Run, tmp_path: Path) -> None:
    video = videos(project)[1]
    arguments = ["extract", "--backbone", "mobilefacenet", "--weights", "random", "--out", tmp_path / "out", "--json"]
    assert rows(run(*arguments, video))[0]["computed"] == 1
    loose = open_receipt(tmp_path / "out/receipts/mobilefacenet.json")[1]
    own = open_receipt(VISUAL)[1]
    assert loose.trials[video.stem].embeddings == own.trials[video.stem].embeddings


def test_a_video_without_sound(tmp_path: Path, run: Run) -> None:
    import av

    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = run("extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out", path)
    assert result.exit_code == 1
    assert "has no" in result.stderr
    assert "leave the audio modality out" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--backbone", "facenett"], 2, "Did you mean 'facenet'?"),
        (["--backbone", "mobilefacenet", "clip.mp4"], 2, "give --weights and --out too"),
        (["--backbone", "mobilefacenet", "--weights", "random"], 2, "go with media files"),
        (["--backbone", "conv1d", "--device", "gpu"], 2, "'gpu'; expected auto, cpu, cuda"),
        (["--backbone", "conv1d", "--device", "meta"], 2, "'meta'; expected auto, cpu, cuda"),
        (["--backbone", "conv1d", "--precision", "int8"], 2, "'fp32', 'bf16', 'fp16'"),
        ([], 2, "Missing option '--backbone'"),
    ],
)
def test_wrong_usage(project: Path, run: Run, arguments: list[str], code: int, text: str) -> None:
    result = run("extract", *arguments)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr


def test_a_backbone_without_a_section_is_told(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: params["extract"].pop("vggish"))
    result = run("extract", "--backbone", "vggish")
    text = "params.yaml has no section for feature set 'vggish' in 'extract', only for"
    assert (result.exit_code, text in result.stderr) == (1, True), result.stderr


def test_a_missing_medium_is_named(run: Run, tmp_path: Path) -> None:
    result = run("extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path, tmp_path / "none.mp4")
    assert result.exit_code == 1
    assert "none.mp4" in result.stderr


def test_loose_media_are_looked_at_before_anything_is_fetched(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(request, "load_backbone", fetch)
    start = ("extract", "--backbone", "facenet", "--weights", "vggface2", "--out", tmp_path / "out")
    for arguments, text in (
        ((tmp_path / "a.mp4", tmp_path / "b.mp4"), "None of 2 files can be read"),
        ((tmp_path / "x/a.mp4", tmp_path / "y/a.mp4"), "Two files are named 'a'"),
        ((tmp_path / "a.mp4",), f"No media file '{tmp_path}/a.mp4'. Check the path."),
        (("--device", "cuda:77", Path(__file__).parent / "none.mp4"), "Device 'cuda:77' does not exist"),
    ):
        result = run(*start, *arguments)
        assert (result.exit_code, text in result.stderr) == (1, True), result.stderr
    assert not (tmp_path / "out").exists()


def test_frames_without_a_face_as_black_pictures(project: Path, run: Run, edit_params: Callable) -> None:
    """Other features, with every frame valid; frames with a face have the same embeddings as before."""
    before, _ = open_receipt(VISUAL)
    edit_params(lambda params: params["extract"]["mobilefacenet"].update(settings={"missing": "black"}))
    assert [row["to_do"] for row in rows(run("extract", "--backbone", "mobilefacenet", "--dry-run", "--json"))] == [3]
    assert rows(run("extract", "--backbone", "mobilefacenet", "--json"))[0]["computed"] == 3
    after, _ = open_receipt(VISUAL)
    missing = []
    for trial_id in before.trial_ids():
        old, new = before.read(trial_id), after.read(trial_id)
        assert new.valid.all()
        assert (new.embeddings[old.valid] == old.embeddings[old.valid]).all()
        missing += list(new.embeddings[~old.valid])
    assert len(missing) > 20
    assert len(np.unique(missing, axis=0)) == 1
    assert missing[0].any()
