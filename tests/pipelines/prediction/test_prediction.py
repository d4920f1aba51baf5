"""A new video in, a row per frame out: the same figures as by the cached way, once, and nothing of anybody else's."""

from __future__ import annotations

import csv
import errno
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from click.testing import Result

from cache.corpus.manifest import Manifest
from cache.errors import MissingFileError, TrialsFailedError, UnknownNameError, WeightsError
from cache.store.receipt import open_receipt
from extract.engine.outcome import Outcome
from extract.media.audio import load_audio
from extract.media.video import probe
from fusion.bank.bank import Bank
from fusion.training.inference import merge
from fusion.training.inference import predict as predict_stored
from pipelines import predict
from pipelines.ensembles.ensemble import Ensemble
from pipelines.ensembles.finding import find_networks
from pipelines.ensembles.members import load_members
from pipelines.prediction import features, prediction
from pipelines.prediction.answers import Answer
from pipelines.prediction.weights import WeightsFinder
from pipelines.project.runs import load_networks

Run = Callable[..., Result]
RUN_NAME = "fused/fold0/seed0"
RUN = f"work/models/{RUN_NAME}"


def read_table(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def test_a_demo_video_is_predicted_as_from_stored_features(
    trained: Path, video: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_MEMORY_GB", 0)  # as for a long video
    result = run("predict", video, "--model", "fused", "--out", "answers")
    assert result.exit_code == 0, result.output
    manifest = Manifest.load(Path("work/corpus"))
    trial = manifest.trials[1]
    stores = {
        modality: open_receipt(Path(f"features/receipts/{name}.json"))[0]
        for modality, name in (("visual", "mobilefacenet"), ("audio", "conv1d"))
    }
    bank = Bank.from_stores(stores, manifest, [trial.id])
    runs = [predict_stored(load_networks(folder)[0], bank, [trial.id]) for folder in find_networks(["fused"])]
    expected = merge(runs)[0]
    found = read_table(Path("answers") / f"{video.stem}.csv")
    assert list(found) == [
        "frame",
        "time_s",
        "valence",
        "arousal",
        "valence_spread",
        "arousal_spread",
        "face",
        "speech",
    ]
    assert found["frame"] == [str(frame) for frame in range(trial.clock.num_frames)]
    np.testing.assert_allclose(np.float64(found["time_s"]), trial.clock.times_s(), atol=1e-6)
    assert len(runs) == 2
    for column, target in enumerate(expected.targets):
        np.testing.assert_allclose(np.float64(found[target]), expected.values[:, column], atol=1e-6)
        spread = np.std([one[0].values[:, column] for one in runs], axis=0, ddof=1)
        np.testing.assert_allclose(np.float64(found[f"{target}_spread"]), spread, atol=1e-6)
    seen = stores["visual"].read(trial.id).valid
    assert found["face"] == [str(int(frame)) for frame in seen]

    written = {path: path.stat().st_mtime_ns for path in Path("answers").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(features, "extract_features", None)
        again = run("predict", video, "--model", "fused", "--out", "answers", "--json")
        assert '"kept"' in again.stdout
        assert {path: path.stat().st_mtime_ns for path in Path("answers").rglob("*")} == written
        Path("answers").rename("moved")
        assert '"kept"' in run("predict", video, "--model", "fused", "--out", "moved", "--json").stdout

    (network,) = load_networks(Path(RUN))
    steps = next(chain for chain, parameters in network.fitted.items() if any(parameters)).split("+")
    smooth = run("predict", video, "--model", RUN, "--out", "moved", "--postprocess", ",".join(steps), "--json")
    assert '"computed"' in smooth.stdout, smooth.output
    (after,) = predict_stored(network.answering(postprocess=steps), bank, [trial.id])
    assert np.abs(after.values - runs[0][0].values).max() > 1e-3
    for column, target in enumerate(after.targets):
        found = np.float64(read_table(Path("moved") / f"{video.stem}.csv")[target])
        np.testing.assert_allclose(found, after.values[:, column], atol=1e-6)
    whole = run("predict", video, "--model", RUN, "--out", "moved", "--window", "500", "--hop", "500", "--json")
    assert '"computed"' in whole.stdout, whole.output
    (once,) = predict_stored(network.answering(500, 500), bank, [trial.id])
    found = np.float64(read_table(Path("moved") / f"{video.stem}.csv")["valence"])
    np.testing.assert_allclose(found, once.values[:, 0], atol=1e-6)
    assert (
        "'0' is no number of frames" in run("predict", video, "--model", RUN, "--out", "moved", "--window", "0").stderr
    )
    refused = run("predict", video, "--model", RUN, "--out", "moved", "--postprocess", "scale,median")
    assert refused.exit_code == 2
    assert "['scale', 'median'], expected some of median" in refused.stderr


def test_one_bad_video_does_not_stop_the_others(trained: Path, video: Path, run: Run) -> None:
    broken, absent, odd = Path("broken.mp4"), Path("absent.mp4"), Path("ein Film, (2) €%.mp4")
    broken.write_bytes(video.read_bytes()[:2000])
    shutil.copy(video, odd)
    result = run("predict", broken, odd, absent, "--model", RUN, "--out", "answers")
    assert result.exit_code == 1
    assert "2 of 3" in result.stderr
    assert "'broken.mp4'" in result.stderr
    assert "'absent.mp4'" in result.stderr
    table = read_table(Path("answers") / f"{odd.stem}.csv")
    assert set(table["valence_spread"]) == {""}
    assert len(table["frame"]) > 40


def test_the_example_in_python(trained: Path, video: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    (example,) = (
        text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import predict\n\ntable" in text
    )
    shutil.copy(video, "video.mp4")
    names: dict[str, Any] = {}
    exec(compile(example, "docs/api.md", "exec"), names)
    table = names["table"]
    assert len(table["frame"]) == len(table["valence"]) == probe(video).num_frames
    assert np.isnan(table["valence_spread"]).all()
    with pytest.raises(TrialsFailedError, match=r"'absent.mp4'"):
        predict("absent.mp4", RUN)


def write_grey(path: Path, seconds: list[Fraction], sound: bool) -> Path:
    """A video without a face whose pictures come at given moments."""
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg4", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 64, 64, "yuv420p"
        pictures.codec_context.time_base = Fraction(1, 1000)
        noise: Any = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for moment in seconds:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * moment)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound:
            samples = np.random.default_rng(0).normal(0, 0.1, (1, round(16000 * float(seconds[-1])))).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            heard.sample_rate = 16000
            container.mux(noise.encode(heard))
            container.mux(noise.encode())
    return path


def test_no_face_no_sound_and_other_rates(trained: Path, run: Run) -> None:
    varying = [Fraction(sum(1 + (index % 3) for index in range(place)), 20) for place in range(25)]
    faceless = write_grey(Path("faceless.mp4"), varying, sound=True)
    silent = write_grey(Path("silent.mp4"), [Fraction(place, 50) for place in range(60)], sound=False)
    result = run("predict", faceless, silent, "--model", RUN, "--out", "answers")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"was seen in '{trained / silent}', so there is nothing to predict from" in said
    assert f"No face was seen in '{trained / faceless}'" in result.stderr
    table = read_table(Path("answers/faceless.csv"))
    assert set(table["face"]) == {"0"}
    assert set(table["speech"]) == {"1"}
    np.testing.assert_allclose(np.float64(table["time_s"]), np.float64(varying), atol=1e-3)


def split_streams(video: Path) -> tuple[Path, Path]:
    """The pictures of a video without its sound, and its sound without them."""
    mute, sound = Path("mute.mp4"), Path("sound.wav")
    with av.open(str(video)) as container, av.open(str(mute), "w") as out:
        pictures = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(container.streams.video[0]):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
    soundfile.write(sound, load_audio(video), 16000)
    return mute, sound


def test_a_medium_that_a_file_lacks_is_not_seen(
    trained: Path, video: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute, sound = split_streams(video)
    cropped = []
    make_crops = features.make_crops

    def note_crops(manifest: Manifest, *others: Any, **how: Any) -> Outcome:
        cropped.append([trial.id for trial in manifest.trials])
        return make_crops(manifest, *others, **how)

    monkeypatch.setattr(features, "make_crops", note_crops)
    for path, lacks, has in ((sound, "face", "speech"), (mute, "speech", "face")):
        result = run("predict", path, "--model", "fused", "--out", "answers")
        assert result.exit_code == 0, result.output
        said = " ".join(result.stderr.split())
        assert f"No {lacks} was seen in '{trained / path}'; the prediction rests on the rest." in said
        assert "No " + has not in said
        table = read_table(Path("answers") / f"{path.stem}.csv")
        assert set(table[lacks]) == {"0"}
        assert "1" in table[has]
        assert np.isfinite(np.float64(table["valence"])).all()
    assert cropped == [["mute"]], "there is nothing to crop in a sound file"


def test_drawings(trained: Path, video: Path, run: Run) -> None:
    asked = ("predict", video, "--model", RUN, "--out", "answers", "--overlay", "drawn.mp4", "--plot", "drawn")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    shown, own = probe(Path("drawn.mp4")), probe(video)
    assert (shown.num_frames, shown.rate, shown.width, shown.has_audio) == (own.num_frames, own.rate, own.width, True)
    assert shown.height > own.height
    assert Path(f"drawn/{video.stem}.png").is_file()
    assert '"kept"' in run(*asked, "--json").stdout
    several = run("predict", video, "other.mp4", *asked[2:])
    assert several.exit_code == 1
    assert "'drawn.mp4' is one file for 2 videos" in several.stderr


def test_files_of_somebody_else_are_not_replaced(trained: Path, video: Path, run: Run) -> None:
    labels = Path("answers") / f"{video.stem}.csv"
    labels.parent.mkdir()
    labels.write_text("valence\n0.5\n")
    result = run("predict", video, "--model", RUN, "--out", "answers")
    assert result.exit_code == 1
    assert f"'{labels}' exists" in result.stderr
    assert labels.read_text() == "valence\n0.5\n"


def test_an_answer_that_cannot_be_written_is_no_fault_of_the_video(
    trained: Path, video: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before is kept; the file that is twice in the list, written differently, counts once."""

    def fill_disk(answer: Answer, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(prediction, "_plot", fill_disk)
    again = video.parent / ".." / video.parent.name / video.name
    result = run("predict", video, again, "--model", RUN, "--out", "answers", "--plot", "plot.png")
    assert result.exit_code == 1
    assert f"The answer for '{video.stem}' cannot be written ([Errno 28] No space left" in result.stderr
    assert "predictions: the only video failed (list: 'answers/cache/failures.json').\n  " in result.stderr
    assert len(read_table(Path("answers") / f"{video.stem}.csv")["frame"]) == probe(video).num_frames


def test_places_that_cannot_be_written_are_refused_before_anything_is_computed(
    trained: Path, video: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "answer_all", None)
    Path("taken").write_text("a file, not a folder")
    suffix = "expected a file ending in"
    for option, place, said in (
        ("--plot", "x.jpg", f"--plot 'x.jpg' ends in '.jpg'; {suffix} '.png', or a folder. Name it 'x.png'"),
        ("--plot", "x.mp4", f"--plot 'x.mp4' ends in '.mp4'; {suffix} '.png'"),
        ("--overlay", "x.avi", f"--overlay 'x.avi' ends in '.avi'; {suffix} '.mp4', or a folder. Name it 'x.mp4'"),
        ("--overlay", "taken/x.mp4", "Nothing can be written in 'taken' ('taken' is a file); expected a folder"),
        ("--plot", "taken/a/x.png", "Nothing can be written in 'taken/a' ('taken' is a file); expected a folder"),
        ("--plot", "taken", "Nothing can be written in 'taken' ('taken' is a file); expected a folder"),
        ("--out", "/proc/x", "Nothing can be written in '/proc/x' ("),
    ):
        result = run("predict", video, "--model", RUN, "--out", "answers", option, place)
        assert result.exit_code == 1, place
        assert said in " ".join(result.stderr.split()), result.stderr
        assert "Errno" not in result.stderr
        assert not Path(place).exists() or place == "taken"


def test_the_answer_for_another_video_of_the_same_name_is_not_replaced(trained: Path, video: Path, run: Run) -> None:
    first, second = Path("one/a.wav"), Path("two/a.wav")
    for seed, path in enumerate((first, second)):
        path.parent.mkdir()
        soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, 16000), 16000)
    assert run("predict", first, "--model", RUN, "--out", "answers").exit_code == 0
    table = Path("answers/a.csv")
    before = table.read_bytes()
    for more in ((), ("--format", "json")):
        refused = run("predict", second, "--model", RUN, "--out", "answers", *more)
        assert refused.exit_code == 1
        said = " ".join(refused.stderr.split())
        assert (
            f"the answer named 'a' of another video, '{trained / first}'; it is not replaced. Give another --out"
            in said
        )
        assert f"rename '{trained / second}', or replace the answer with --redo" in said
        assert table.read_bytes() == before
    moved = Path("three/a.wav")
    moved.parent.mkdir()
    first.rename(moved)
    assert '"kept"' in run("predict", moved, "--model", RUN, "--out", "answers", "--json").stdout
    assert '"computed"' in run("predict", second, "--model", RUN, "--out", "answers", "--redo", "--json").stdout
    assert table.read_bytes() != before
    shutil.copy(moved, second)
    changed = run("predict", second, "--model", RUN, "--out", "answers", "--json")
    assert '"computed"' in changed.stdout, "the same file with other content replaces its answer"
    assert table.read_bytes() == before


def test_names_of_models(trained: Path, tmp_path: Path) -> None:
    runs = [Path(f"work/models/fused/fold0/seed{seed}") for seed in (0, 1)]
    for name in (
        "fused",
        "fused/fold0",
        "work/models/fused",
        Path("work/models/fused/fold0"),
        Path("work/models/fused").absolute(),
    ):
        assert [folder.absolute() for folder in find_networks([name])] == [folder.absolute() for folder in runs], name
    assert find_networks([RUN]) == find_networks(["fused/fold0/seed0"]) == runs[:1]
    assert find_networks(["fused", RUN]) == runs, "each once"
    with pytest.raises(UnknownNameError, match="'fusd'.*Did you mean 'fused'"):
        find_networks(["fusd"])
    with pytest.raises(MissingFileError, match="'fused/fold1', expected one of fused/fold0/seed0, fused/fold0/seed1"):
        find_networks(["fused/fold1"])
    with pytest.raises(MissingFileError, match="'nowhere/seed0'"):
        find_networks(["nowhere/seed0"])
    with pytest.raises(
        MissingFileError, match="no trained network, expected model.json and model.safetensors.*like. Check"
    ):
        find_networks([tmp_path])
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(MissingFileError, match="It has model.safetensors, so that only model.json is missing. Check"):
        find_networks([tmp_path])
    with pytest.raises(
        MissingFileError, match=f"'{RUN_NAME}' predicts all of its targets with one network.*Name '{RUN_NAME}'.$"
    ):
        find_networks([f"{RUN_NAME}/valence"])


def test_a_misspelt_system_among_many(tmp_path: Path) -> None:
    for number in range(34):
        (tmp_path / f"system{number:02}").mkdir()
    with pytest.raises(UnknownNameError) as caught:
        find_networks(["sytsem07"], [tmp_path])
    said = str(caught.value)
    assert said.startswith(
        "There is no trained system and no folder 'sytsem07', did you mean 'system07'? Expected one of system00"
    )
    assert said.endswith("system11 and 22 more. Correct it.")
    with pytest.raises(
        UnknownNameError, match=r"expected one of system00.* and 22 more\. Run 'avfusion train' first if"
    ):
        find_networks(["x"], [tmp_path])


def test_targets_of_their_own_networks_are_parts_of_a_run(tmp_path: Path) -> None:
    for part in ("fold10/seed0/valence", "fold2/seed1/valence", "fold2/seed1/arousal", "fold2/.seed9.x/fresh"):
        (tmp_path / "two" / part).mkdir(parents=True)
        (tmp_path / "two" / part / "model.json").touch()
    found = find_networks(["two"], [tmp_path])
    expected = ["fold2/seed1/arousal", "fold2/seed1/valence", "fold10/seed0/valence"]
    assert [path.relative_to(tmp_path / "two").as_posix() for path in found] == expected
    assert find_networks(["two/fold2/seed1/valence"], [tmp_path]) == found[1:2]


def test_weights_are_found_by_their_digest_or_named(trained: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from extract.backbones.contract import load_backbone
    from extract.weights.finetuned import Lineage

    backbone = load_backbone("conv1d", "random:7", {"window_s": 0.1})
    lineage = Lineage("conv1d", backbone.settings(), "", "", (), (), (), {})
    tuned = backbone.save(tmp_path / "elsewhere" / "audio", lineage)
    recipe = load_backbone("conv1d", str(tuned), {"window_s": 0.1}).recipe(upstream={})
    ensemble = Ensemble.of(load_members([Path(RUN)]))
    other = next(recipe for modality, recipe in ensemble.recipes.values() if modality == "audio")
    assert recipe != other
    with pytest.raises(
        WeightsError,
        match=r"'audio.safetensors' \(sha256 \w+…\), which were not found. Say where.*--weights audio=PATH, a file or a folder that has them\.$",
    ):
        WeightsFinder({}, []).build("audio", recipe)
    for given in (tuned, tmp_path / "elsewhere"):
        assert WeightsFinder({"audio": given}, []).build("audio", recipe).recipe(upstream={}) == recipe
    changed = replace(recipe, weights_sha256="ab" * 32)
    with pytest.raises(
        WeightsError, match=f"sha256 '{recipe.weights_sha256[:12]}…', expected .*abababababab.*--weights"
    ):
        WeightsFinder({"conv1d": tuned}, []).build("audio", changed)
    kept = Path("work/finetunings/0123/weights/audio.safetensors")
    shutil.copytree(tuned.parent, kept.parent)
    assert WeightsFinder({}, [Path(RUN)]).build("audio", recipe).recipe(upstream={}) == recipe
