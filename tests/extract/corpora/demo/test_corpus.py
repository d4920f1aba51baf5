"""The demo corpus: what a small one holds, that faces and voices can be found in it, and how faults are named."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import CorpusError, MissingFileError, SettingError
from extract.corpora.demo import corpus as demo
from extract.corpora.demo import media
from extract.corpora.demo.corpus import ANNOTATIONS, Config, DemoCorpus
from extract.corpora.demo.media import whole_file, write_video
from extract.corpora.demo.script import at_frames, draw_turns, write_script
from extract.corpora.demo.voice import SAMPLE_RATE, Voice, speak
from extract.corpora.demo.words import CONTROL_HZ, FILLERS, LEXICON, SpokenWord, lay_out_words

SMALL = Config(num_trials=4, min_s=2.0, max_s=2.4)
EXTRA, HALF, LEFT, RIGHT = "10-25-320x240", "video60", "video61_left", "video61_right"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    DemoCorpus(SMALL).generate(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return DemoCorpus(SMALL).read(root)


def file_bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read_sound(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        parts += resampler.resample(None)
        return np.concatenate([part.to_ndarray()[0] for part in parts])


def label_rows(root: Path, trial: str) -> list[str]:
    (path,) = (root / ANNOTATIONS).glob(f"*/{trial}.txt")
    return path.read_text().splitlines()


def level_db(sound: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(sound, dtype=np.float64)) + 1e-12))


def test_trials_have_everything(manifest: Manifest, root: Path) -> None:
    assert [trial.id for trial in manifest.trials] == [EXTRA, HALF, LEFT, RIGHT]
    assert {trial.partition for trial in manifest.trials} == {"train", "validation", "test"}
    assert {trial.clock.rate for trial in manifest.trials} == {Fraction(25), Fraction(30000, 1001), Fraction(30)}
    for trial in manifest.trials:
        assert set(trial.media) == {"video", "audio", "words"}
        assert all(manifest.path(trial, kind).is_file() for kind in trial.media)
        assert trial.labels is not None
        assert trial.labels.dtype == np.float32
    rows = np.concatenate([trial.labels for trial in manifest.trials if trial.labels is not None])
    assert np.nanstd(rows, axis=0).min() > 0.2
    assert not list(root.rglob("*.unfinished"))


def test_two_people_share_a_video_and_a_subject(manifest: Manifest) -> None:
    left, right = manifest.trial(LEFT), manifest.trial(RIGHT)
    assert (left.face, right.face, manifest.trial(HALF).face) == ("left", "right", "largest")
    assert left.media["video"] == right.media["video"]
    assert (left.subject, left.partition) == (right.subject, right.partition)
    assert not np.array_equal(left.labels, right.labels)
    spans = [span for trial in (left, right) for span in read_spans(manifest, trial.id)]
    assert all(a[1] <= b[0] or b[1] <= a[0] for i, a in enumerate(spans) for b in spans[:i])


def read_spans(manifest: Manifest, trial_id: str) -> list[tuple[float, float]]:
    words = json.loads(manifest.path(manifest.trial(trial_id), "words").read_text())["words"]
    return [(word["start"], word["end"]) for word in words]


def test_labels_have_the_faults_of_real_ones(manifest: Manifest, root: Path) -> None:
    rows = label_rows(root, HALF)
    assert rows[0] == "valence,arousal"
    half = [row for row in rows[1:] if row.split(",").count("-5") == 1]
    whole = [row for row in rows[1:] if row == "-5,-5"]
    assert len(half) == 4
    assert len(whole) > 5
    labels = manifest.trial(HALF).labels
    assert labels is not None
    absent = np.isnan(labels)
    assert absent.all(axis=1).sum() == absent.any(axis=1).sum() == len(half) + len(whole)


def test_containers_are_h264_and_aac_and_as_long_as_the_labels(manifest: Manifest) -> None:
    for trial in manifest.trials:
        with av.open(str(manifest.path(trial, "video"))) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert video.average_rate == trial.clock.rate
            num_frames = sum(1 for _ in container.decode(video=0))
        assert trial.clock.num_frames - num_frames == (trial.id == EXTRA)
        sound = read_sound(manifest.path(trial, "audio"))
        assert abs(len(sound) / SAMPLE_RATE - num_frames / trial.clock.rate) < 0.1


def test_words_are_where_the_voice_is(manifest: Manifest) -> None:
    for trial_id in (EXTRA, HALF):
        trial = manifest.trial(trial_id)
        words = json.loads(manifest.path(trial, "words").read_text())["words"]
        assert {word["word"] for word in words} <= {*LEXICON, *FILLERS}
        spans = read_spans(manifest, trial_id)
        assert spans == sorted(spans)
        assert spans[-1][1] < trial.clock.duration_s
        sound = read_sound(manifest.path(trial, "audio"))
        spoken = np.zeros(len(sound), bool)
        for start, stop in spans:
            spoken[int((start - 0.05) * SAMPLE_RATE) : int((stop + 0.05) * SAMPLE_RATE)] = True
        assert (~spoken).mean() > 0.1  # there is silence
        assert level_db(sound[spoken]) - level_db(sound[~spoken]) > 15


def test_bytes_depend_on_the_seed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(num_trials=3, min_s=1.0, max_s=1.0, width=160, height=120)
    DemoCorpus(config).generate(tmp_path / "here")
    monkeypatch.setattr(demo, "_FEW_VIDEOS", 0)  # now in other processes
    DemoCorpus(config).generate(tmp_path / "there")
    here, there = file_bytes(tmp_path / "here"), file_bytes(tmp_path / "there")
    assert here == there
    monkeypatch.setattr(demo, "_FEW_VIDEOS", 4)
    DemoCorpus(Config(seed=8, num_trials=3, min_s=1.0, max_s=1.0, width=160, height=120)).generate(tmp_path / "other")
    other = file_bytes(tmp_path / "other")
    assert here.keys() == other.keys()
    assert [name for name in here if here[name] == other[name]] == ["subjects.csv"]


def test_the_full_corpus_splits_by_subject() -> None:
    videos = demo._plan(Config())
    assert sum(len(video.trials) for video in videos) == 24
    assert len({video.name for video in videos}) == len(videos) == 23
    homes = {partition: {v.subject for v in videos if v.partition == partition} for partition in demo.PARTITIONS}
    assert {partition: len(subjects) for partition, subjects in homes.items()} == {
        "train": 7,
        "validation": 2,
        "test": 3,
    }
    assert len(set().union(*homes.values())) == 12
    assert all(7.9 < video.num_frames / video.rate <= 12 for video in videos)


def test_each_modality_tells_what_it_should() -> None:
    def correlate(signal: str, latent: str) -> float:
        return float(
            np.corrcoef(*(np.concatenate([getattr(s, name) for s in scripts]) for name in (signal, latent)))[0, 1]
        )

    rng = np.random.default_rng(3)
    scripts = [write_script(rng, 300, Fraction(30), [(0.0, 10.0)], hides=True) for _ in range(60)]
    assert 0.7 < correlate("face_valence", "valence") < 0.9
    assert 0.7 < correlate("voice_arousal", "arousal") < 0.9
    assert 0.3 < correlate("face_arousal", "arousal") < 0.65
    assert 0.3 < correlate("voice_valence", "valence") < 0.65
    assert abs(correlate("valence", "arousal")) < 0.2
    assert all(0 < start < stop < 300 for script in scripts for start, stop in script.hidden)
    assert at_frames(scripts[0].valence, 301, Fraction(30)).shape == (301,)


def test_arousal_raises_loudness_and_pitch() -> None:
    def say(arousal: float) -> NDArray[np.float32]:
        steady = np.full(2 * CONTROL_HZ, arousal)
        return speak([SpokenWord("road", 0.0, 2.0)], Voice(1.0, 1.0), steady, steady * 0, np.random.default_rng(1))

    def pitch_hz(sound: NDArray[np.float32]) -> float:
        middle = sound[SAMPLE_RATE // 2 : SAMPLE_RATE].astype(float)
        echo = np.correlate(middle, middle, "full")[len(middle) - 1 :]
        shortest = SAMPLE_RATE // 300
        echo = echo[shortest : SAMPLE_RATE // 80]
        first = int(np.flatnonzero(echo > 0.8 * echo.max())[0])  # later peaks are multiples of the period
        return SAMPLE_RATE / (shortest + first + int(np.argmax(echo[first : first + 12])))

    calm, excited = say(-1.0), say(1.0)
    assert len(calm) == 2 * SAMPLE_RATE
    assert level_db(excited) - level_db(calm) > 12
    assert pitch_hz(calm) == pytest.approx(90, rel=0.05)
    assert pitch_hz(excited) == pytest.approx(260, rel=0.05)


@pytest.mark.parametrize("mood", [-0.8, 0.8])
def test_words_follow_valence_and_excited_speakers_say_more(mood: float) -> None:
    track = np.full(60 * CONTROL_HZ, mood)
    words = lay_out_words([(0.0, 60.0)], track, track * 0, np.random.default_rng(2))
    assert np.mean([LEXICON[word.text] for word in words if word.text in LEXICON]) == pytest.approx(mood, abs=0.2)
    calm, excited = (
        len(lay_out_words([(0.0, 60.0)], track, np.full_like(track, arousal), np.random.default_rng(2)))
        for arousal in (-1.0, 1.0)
    )
    assert excited > 1.5 * calm


def test_turns_leave_a_silence_and_never_overlap() -> None:
    (alone,) = draw_turns(np.random.default_rng(1), 10.0, 1)
    assert alone[1][0] - alone[0][1] == pytest.approx(1.5)
    both = sorted(turn for turns in draw_turns(np.random.default_rng(1), 10.0, 2) for turn in turns)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(both))


def test_a_detector_finds_the_faces_that_are_shown(manifest: Manifest, root: Path) -> None:
    facenet_pytorch = pytest.importorskip("facenet_pytorch")
    detector = facenet_pytorch.MTCNN(keep_all=True, device="cpu", min_face_size=40)
    expected = found = invented = hidden = 0
    distances = []
    for name in {trial.media["video"] for trial in manifest.trials}:
        people = [trial.id for trial in manifest.trials if trial.media["video"] == name]
        truths = [json.loads((root / "truth" / f"{trial}.json").read_text()) for trial in people]
        with av.open(str(root / name)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % 16 != 8 and not any(index == a + 2 for truth in truths for a, _ in truth["hidden"]):
                    continue
                _, chances, points = detector.detect(frame.to_image(), landmarks=True)
                sure = (
                    []
                    if points is None
                    else [np.array(p, float) for p, c in zip(points, chances, strict=True) if c > 0.9]
                )
                shown = [truth for truth in truths if not any(a <= index < b for a, b in truth["hidden"])]
                hidden += len(truths) - len(shown)
                expected += len(shown)
                invented += max(0, len(sure) - len(shown))
                for truth in shown:
                    off = [np.abs(p - truth["landmarks"][index]).max() for p in sure]
                    near = [distance for distance in off if distance < 15]
                    found += bool(near)
                    distances += near
    assert hidden >= 3
    assert expected >= 12
    assert found >= 0.95 * expected
    assert invented <= 1
    assert np.median(distances) < 6  # pixels, of faces about 100 wide


def test_all_faults_are_listed(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root, broken)
    labels = {name: next((broken / ANNOTATIONS).glob(f"*/{name}.txt")) for name in (EXTRA, HALF, LEFT)}
    labels[EXTRA].unlink()
    labels[HALF].write_text("valence,arousal\n0,0\n0,zero\n3,0\n")
    labels[LEFT].write_text("valence,arousal\n0,0\n")
    (broken / "words" / f"{RIGHT}.json").unlink()
    (broken / "batch1" / "10-25-320x240.mp4").unlink()
    with (broken / "subjects.csv").open("a") as file:
        file.write("video99,subject99,nowhere\n")
    with pytest.raises(CorpusError) as caught:
        DemoCorpus(SMALL).read(broken)
    message = str(caught.value)
    for part in (
        f"No annotation file '{labels[EXTRA]}'",
        "0 videos '10-25-320x240.mp4'",
        f"'{labels[HALF]}': line 3 is '0,zero'",
        "line 4 is '3,0'",
        f"Trial '{LEFT}' has 1 labels but",
        f"no words '{broken / 'words' / RIGHT}.json'",
        "line 6: 'video99,subject99,nowhere'",
    ):
        assert part in message


def test_a_damaged_video_is_named(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root, broken)
    (broken / "batch2" / "video60.mp4").write_bytes(b"not a video")
    with pytest.raises(CorpusError, match=r"video60\.mp4' is truncated, damaged or of an unknown format"):
        DemoCorpus(SMALL).read(broken)


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="Generate the demo corpus"):
        DemoCorpus().read(tmp_path)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingError) as caught:
        Config(num_trials=2, width=161, height=100)
    assert caught.value.faults.keys() == {"num_trials", "width", "height"}
    with pytest.raises(SettingError, match="'min_s' is 3, expected at most 'max_s', 2"):
        Config(min_s=3, max_s=2)


def test_an_interrupted_file_never_shows(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"

    def write_and_fail() -> None:
        with whole_file(path) as unfinished:
            unfinished.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert not path.exists()


def test_two_processes_may_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    with whole_file(path) as ours:
        ours.write_bytes(b"whole")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 2**22)
            with whole_file(path) as theirs:
                theirs.write_bytes(b"whole")
    assert [(found, found.read_bytes()) for found in tmp_path.iterdir()] == [(path, b"whole")]


def test_unfinished_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        pass
    left = [tmp_path / f".video.mp4.{pid}.unfinished" for pid in (dead.pid, os.getpid())]
    for path in left:
        path.touch()
    media.remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == left[1:]


def test_an_encoding_does_not_depend_on_where_memory_lies(manifest: Manifest, tmp_path: Path) -> None:
    trial = manifest.trial(LEFT)
    with av.open(str(manifest.path(trial, "video"))) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    sound = read_sound(manifest.path(trial, "audio"))
    path, seen, kept = tmp_path / "again.mp4", set(), []
    for count in range(8):
        kept.append(np.ones(10_007 * count, np.uint8))
        write_video(path, pictures, (320, 240), trial.clock.rate, sound, SAMPLE_RATE, SAMPLE_RATE)
        seen.add(path.read_bytes())
    assert len(seen) == 1
