"""Extraction of a part, in rehearsal, in other precisions and runtimes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
from click.testing import Result

import extract.inputs.waves
from cache.corpus.manifest import Manifest
from cache.errors import SettingError
from cache.store.feature_sets import store_of
from cache.store.receipt import open_receipt
from cache.store.store import FeatureStore
from extract.engine.embedding import EngineOptions
from extract.words.transcripts import write_words
from extract.words.words import Word
from pipelines.cli.options.kinds import weights_of
from pipelines.project.loose_media import loose_manifest
from pipelines.stages.dry_run import seconds_per_frame

VISUAL, AUDIO = Path("features/receipts/mobilefacenet.json"), Path("features/receipts/conv1d.json")
Run = Callable[..., Result]


def skip_without_openvino() -> None:
    """Looked for, not imported: a plain import would report itself to its makers."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")


def rows(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def ids() -> list[str]:
    return [trial.id for trial in Manifest.load(Path("work/corpus")).trials]


def snapshot(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_all_stands_for_every_backbone_of_the_parameters(project: Path, run: Run, edit_params: Callable) -> None:
    kept = ("mobilefacenet", "conv1d")
    edit_params(lambda params: [params["extract"].pop(name) for name in list(params["extract"]) if name not in kept])
    table = rows(run("extract", "--backbone", "all", "--backbone", "conv1d", "--json"))
    assert [(row["features"], row["kept"]) for row in table] == [("mobilefacenet", 3), ("conv1d", 3)]


def test_a_part_of_the_corpus_has_no_receipt(project: Path, run: Run) -> None:
    before = AUDIO.read_bytes()
    AUDIO.unlink()
    store = store_of(AUDIO)
    for chunk in store.rglob("zarr.json"):
        if chunk.parent.parent.parent == store:
            chunk.unlink()
    assert rows(run("extract", "--backbone", "conv1d", "--limit", "1", "--json"))[0]["computed"] == 1
    assert not AUDIO.exists()
    table = rows(run("extract", "--backbone", "conv1d", "--trials", ids()[1], "--trials", "none*", "--json"))
    assert (table[0]["computed"], table[0]["kept"]) == (1, 0)
    assert not AUDIO.exists()
    assert rows(run("extract", "--backbone", "conv1d", "--limit", "9", "--json"))[0]["kept"] == 2
    assert AUDIO.read_bytes() == before


def test_a_part_done_anew_leaves_a_true_receipt_and_removes_a_false_one(project: Path, run: Run) -> None:
    before = AUDIO.read_bytes()
    rows(run("extract", "--backbone", "conv1d", "--trials", ids()[0], "--redo", "--json"))
    assert AUDIO.read_bytes() == before
    manifest = Manifest.load(Path("work/corpus"))
    video = manifest.path(manifest.trials[0], "video")
    video.write_bytes(video.read_bytes() + b"\0\0\0\x08free")
    result = run("extract", "--backbone", "conv1d", "--trials", ids()[0])
    assert f"Receipt '{AUDIO}' is out of date" in result.stderr
    assert not AUDIO.exists()
    assert "Receipt" not in run("extract", "--backbone", "conv1d", "--limit", "1").stderr
    rows(run("extract", "--backbone", "conv1d", "--json"))
    assert open_receipt(AUDIO)


def test_a_pattern_that_fits_nothing_is_refused(project: Path, run: Run) -> None:
    result = run("extract", "--backbone", "conv1d", "--trials", "nobody*")
    assert result.exit_code == 1
    assert "No trial is named 'nobody*'; there are 3, e.g. " in result.stderr


def test_a_rehearsal_writes_nothing(project: Path, run: Run, edit_params: Callable) -> None:
    victim = next(Path("work/crops").rglob("*.zip"))
    victim.unlink()
    edit_params(lambda params: params["extract"]["conv1d"].update(settings={"window_s": 0.25}))
    before = snapshot(project / "features", project / "work")
    arguments = ["extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", "--dry-run", "--json"]
    visual, audio = rows(run(*arguments))
    total = sum(trial.clock.num_frames for trial in Manifest.load(Path("work/corpus")).trials)
    assert (visual["to_do"], visual["without_crops"], visual["kept"]) == (1, 1, 2)
    assert (audio["to_do"], audio["kept"], audio["frames"]) == (3, 0, total)
    assert audio["megabytes"] == round(total * 128 * 2 / 1e6, 1)
    assert audio["seconds"] > 0
    assert snapshot(project / "features", project / "work") == before
    visual = rows(run(*arguments, "--redo"))[0]
    assert (visual["to_do"], visual["kept"]) == (3, 0)


def test_the_probe_runs_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from extract.backbones.contract import load_backbone
    from extract.engine import torch_runtime

    seen = []
    start = torch_runtime.TorchExecutor.start
    monkeypatch.setattr(
        torch_runtime.TorchExecutor, "start", lambda self, batch: seen.append(len(batch)) or start(self, batch)
    )
    assert seconds_per_frame(load_backbone("conv1d", "random"), EngineOptions(batch_size=4, device="cpu")) > 0
    assert seen == [4, 4]


def test_precision_is_part_of_the_recipe(project: Path, run: Run) -> None:
    before = open_receipt(AUDIO)[1]
    row = rows(run("extract", "--backbone", "conv1d", "--precision", "bf16", "--json"))[0]
    receipt = open_receipt(AUDIO)[1]
    assert row["computed"] == 3
    assert row["fingerprint"] == receipt.recipe.fingerprint[:12] != before.recipe.fingerprint[:12]
    assert receipt.recipe.settings["precision"] == "bf16"
    assert rows(run("extract", "--backbone", "conv1d", "--json"))[0]["kept"] == 3
    assert open_receipt(AUDIO)[1] == before


def test_openvino_is_recorded_and_no_other_recipe(project: Path, run: Run) -> None:
    skip_without_openvino()
    before, first = open_receipt(AUDIO)[1], ids()[0]
    expected = np.array(open_receipt(AUDIO)[0].read(first).embeddings, np.float32)
    rows(run("extract", "--backbone", "conv1d", "--runtime", "openvino", "--redo", "--json"))
    store, receipt = open_receipt(AUDIO)
    assert receipt.recipe == before.recipe
    assert store.record(first).versions["runtime"] == "openvino"
    assert (before.trials[first].runtime, receipt.trials[first].runtime) == ("torch", "openvino")
    assert json.loads(AUDIO.read_text())["trials"][first]["runtime"] == "openvino"
    found = np.array(store.read(first).embeddings, np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_the_table_is_shown_although_a_trial_failed(project: Path, run: Run) -> None:
    for crops in Path("work/crops").rglob("*.zip"):
        crops.unlink()
    manifest = Manifest.load(Path("work/corpus"))
    manifest.path(manifest.trials[0], "video").write_bytes(b"no video")
    result = run("extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", "--json")
    assert result.exit_code == 1
    table = json.loads(result.stdout)
    assert [(row["features"], row["failed"], row["kept"]) for row in table] == [
        ("mobilefacenet", 1, 2),
        ("conv1d", 1, 2),
    ]
    for text in ("mobilefacenet: 1 of 3", "conv1d: 1 of 3", "crops: 1 of 3"):
        assert text in result.stderr
    assert json.loads(Path("work/crops/failures.json").read_text())
    assert not VISUAL.exists()


def test_loose_words_lie_beside_their_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"elsewhere/{name}.wav", np.zeros(32_000, np.float32), 16_000)
        (tmp_path / f"{name}.wav").symlink_to(tmp_path / f"elsewhere/{name}.wav")  # beside the link, not its target
    write_words(tmp_path / "a.json", [Word("so", 0.1, 0.5), Word("it", 0.6, 0.9)])
    out = tmp_path / "out"
    media = [tmp_path / "a.wav", tmp_path / "b.wav"]
    arguments = ["extract", "--backbone", "bert", "--weights", "random", "--out", out]
    plan = rows(run(*arguments, "--dry-run", "--json", *media))[0]
    assert (plan["to_do"], plan["unreadable"]) == (1, 1)
    assert not out.exists()
    result = run(*arguments, *media)
    assert result.exit_code == 1
    remedy = f"Run 'avfusion transcribe --out {tmp_path} {tmp_path / 'b.wav'}'."
    assert f"b: '{tmp_path / 'b.wav'}' has no words" in result.stderr
    assert remedy in result.stderr
    assert remedy in run(*arguments, "--dry-run", *media).stderr
    receipt = open_receipt(out / "receipts/bert.json")[1]
    store = FeatureStore(out / "bert.zarr", receipt.recipe.fingerprint)
    assert list(receipt.trials) == ["a"]
    assert store.read("a").valid.sum() > 10


def test_two_transcripts_of_one_file_are_refused_where_words_are_read(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
    write_words(tmp_path / "a.json", [Word("so", 0.1, 0.5)])
    (tmp_path / "a.srt").write_text("")
    arguments = ["--weights", "random", "--out", tmp_path / "out", tmp_path / "a.wav"]
    assert run("extract", "--backbone", "conv1d", *arguments).exit_code == 0
    result = run("extract", "--backbone", "bert", *arguments)
    assert (result.exit_code, "2 transcripts" in result.stderr) == (1, True), result.stderr


def test_the_receipt_of_loose_media_names_earlier_runs_too(run: Run, tmp_path: Path) -> None:
    arguments = ["extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out"]
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(32_000, np.float32), 16_000)
        rows(run(*arguments, "--json", tmp_path / f"{name}.wav"))
    receipt = tmp_path / "out/receipts/conv1d.json"
    assert list(open_receipt(receipt)[1].trials) == ["a", "b"]
    (tmp_path / "a.wav").write_bytes(b"no sound")
    assert run(*arguments, tmp_path / "a.wav", tmp_path / "b.wav").exit_code == 1
    assert list(open_receipt(receipt)[1].trials) == ["b"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["random"], {"conv1d": "random", "vggish": "random"}),
        (["conv1d=a=b.pt", "random"], {"conv1d": "a=b.pt", "vggish": "random"}),
        (["conv1d=x", "vggish=random:3"], {"conv1d": "x", "vggish": "random:3"}),
        (["conv1d=x"], None),
        (["x", "y"], None),
        (["conv1d=x", "conv1d=y", "vggish=z"], None),
        (["random", "facenet=x"], None),
    ],
)
def test_each_backbone_has_its_weights(values: list[str], expected: dict[str, str] | None) -> None:
    if expected is None:
        with pytest.raises(click.UsageError, match="NAME=WEIGHTS once for each of conv1d, vggish"):
            weights_of(["conv1d", "vggish"], values)
    else:
        assert weights_of(["conv1d", "vggish"], values) == expected


def test_whose_face_is_followed_in_loose_media(project: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(Path("work/corpus"))
    video, picture = manifest.path(manifest.trials[0], "video"), tmp_path / "who.png"
    (trial,) = loose_manifest([video], None, "left")[0].trials
    assert (trial.face, "face" in trial.media) == ("left", False)
    with pytest.raises(SettingError, match="expected one of largest, centre, left, right"):
        loose_manifest([video], None, str(picture))
    picture.write_bytes(b"")
    (trial,) = loose_manifest([video], None, str(picture))[0].trials
    assert (trial.face, trial.media["face"]) == ("reference", str(picture))


def test_a_video_keeps_its_rate(run: Run, project: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(Path("work/corpus"))
    video = manifest.path(manifest.trials[0], "video")
    arguments = ["extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out", "--dry-run"]
    assert "--rate is for sound without pictures" in run(*arguments, "--rate", "10", video).stderr
    assert "--rate" not in run(*arguments, video).stderr


def test_among_several_bert_runs_with_torch(run: Run, tmp_path: Path) -> None:
    skip_without_openvino()
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
    write_words(tmp_path / "a.json", [Word("so", 0.1, 0.5)])
    how = ["--weights", "random", "--out", tmp_path / "out", "--runtime", "openvino", tmp_path / "a.wav"]
    result = run("extract", "--backbone", "bert", "--backbone", "conv1d", *how)
    assert (result.exit_code, "so it runs with torch" in result.stderr) == (0, True), result.stderr
    runtimes = [
        open_receipt(tmp_path / "out" / place)[0].record("a").versions["runtime"]
        for place in ("receipts/bert.json", "receipts/conv1d.json")
    ]
    assert runtimes == ["torch", "openvino"]
    assert run("extract", "--backbone", "bert", *how).exit_code == 1


def test_a_rehearsal_knows_that_sound_has_no_faces(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
    arguments = ["extract", "--backbone", "mobilefacenet", "--weights", "random", "--out", tmp_path / "out"]
    rehearsal = run(*arguments, "--dry-run", "--json", tmp_path / "a.wav")
    assert (rows(rehearsal)[0]["to_do"], rows(rehearsal)[0]["unreadable"]) == (0, 1)
    for result in (rehearsal, run(*arguments, tmp_path / "a.wav")):
        assert "a.wav' has no video" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--backbone", "all", "--weights", "random", "--out", "o", "clip.mp4"], 2, "name backbones"),
        (["--backbone", "conv1d", "--limit", "0"], 2, "--limit"),
        (["--backbone", "conv1d", "--runtime", "onnx"], 2, "'openvino', 'torch'"),
        (["--backbone", "conv1d", "--runtime", "openvino", "--compile"], 1, "got '--compile'. Leave"),
        (
            ["--backbone", "conv1d", "--runtime", "openvino", "--precision", "bf16"],
            1,
            "on the CPU; got '--precision bf16'. Leave that out",
        ),
    ],
)
def test_wrong_usage(project: Path, run: Run, arguments: list[str], code: int, text: str) -> None:
    result = run("extract", *arguments)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr


def test_a_stranger_of_the_same_name_replaces_nothing(run: Run, tmp_path: Path) -> None:
    arguments = ["extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out"]
    for folder, seconds in (("one", 2), ("two", 1)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "v.wav", np.zeros(16_000 * seconds, np.float32), 16_000)
    rows(run(*arguments, "--json", tmp_path / "one/v.wav", tmp_path / "one/v.wav"))
    for extra in ((), ("--dry-run",)):
        result = run(*arguments, *extra, tmp_path / "two/v.wav")
        assert "named 'v'" in result.stderr, result.stderr
        assert "two/v.wav'. Rename it" in result.stderr
    assert run(*arguments, tmp_path / "two/v.wav").exit_code == 1
    receipt = tmp_path / "out/receipts/conv1d.json"
    assert open_receipt(receipt)[1].trials["v"].num_frames == 50
    assert rows(run(*arguments, "--json", tmp_path / "one/v.wav"))[0]["kept"] == 1
    rows(run(*arguments, "--redo", "--json", tmp_path / "two/v.wav"))
    assert open_receipt(receipt)[1].trials["v"].num_frames == 25


def test_files_that_are_not_chosen_are_not_opened(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(16_000, np.float32), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"")
    arguments = ["extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out"]
    media = [tmp_path / "bad.wav", tmp_path / "good.wav"]
    assert run(*arguments, "--trials", "good", *media).exit_code == 0
    result = run(*arguments, "--trials", "bad", *media)
    assert (result.exit_code, "None of 1 files can be read" in result.stderr) == (1, True), result.stderr


def test_a_trial_without_any_input_is_told(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000, np.float32), 16_000)
    write_words(tmp_path / "a.json", [Word("so", 240, 500)])  # milliseconds by mistake
    result = run("extract", "--backbone", "bert", "--weights", "random", "--out", tmp_path / "out", tmp_path / "a.wav")
    assert (result.exit_code, "bert: 1 of 1 trials" in result.stderr) == (0, True), result.stderr


class Odd(Exception):
    """As a media library might have."""


@pytest.mark.parametrize(
    "error", [Odd("what"), ZeroDivisionError("by zero"), MemoryError(), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")]
)
@pytest.mark.parametrize("place", ["open_sound", "read"])
def test_no_exception_of_a_library_ends_a_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Neither when a trial is opened nor when its inputs are read: it fails, the other is finished, exit code 1."""
    for name in ("bad", "good"):
        soundfile.write(
            tmp_path / f"{name}.wav", np.zeros(8000, np.float32) if name == "good" else np.full(9000, 0.5), 16000
        )
    real_load, real_read = extract.inputs.waves.open_sound, extract.inputs.waves.SoundSource.read

    def load(path: Path, *rest: int) -> Any:
        if place == "open_sound" and path.stem == "bad":
            raise error
        return real_load(path, *rest)

    def read(source: Any, wanted: Any) -> Any:
        if place == "read" and source._path.stem == "bad":
            raise error
        return real_read(source, wanted)

    monkeypatch.setattr(extract.inputs.waves, "open_sound", load)
    monkeypatch.setattr(extract.inputs.waves.SoundSource, "read", read)
    out = tmp_path / "out"
    result = run(
        "extract",
        "--backbone",
        "conv1d",
        "--weights",
        "random",
        "--out",
        out,
        tmp_path / "bad.wav",
        tmp_path / "good.wav",
    )
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    reason = "Out of memory" if isinstance(error, MemoryError) else type(error).__name__
    assert reason in result.stderr
    assert "bad" in result.stderr
    store, _ = open_receipt(out / "receipts/conv1d.json")
    assert store.trial_ids() == ["good"]
    assert json.loads((out / "conv1d.failures.json").read_text()).keys() == {"bad"}


def test_a_name_cannot_begin_a_line_of_its_own(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a\nError: all is lost.wav").write_text("no sound")
    soundfile.write(tmp_path / "good.wav", np.zeros(8000), 16000)
    result = run(
        "extract", "--backbone", "conv1d", "--weights", "random", "--out", tmp_path / "out", *tmp_path.glob("*.wav")
    )
    assert result.exit_code == 1
    assert "a\\nError: all is lost" in result.stderr
    assert not any(line.startswith("Error: all is lost") for line in result.stderr.splitlines())
