"""Demo corpus: two dozen generated videos of drawn, talking faces, in the layout of Aff-Wild2; no download.

Everything is a pure function of the config. Valence shows mostly in the face and the words, arousal mostly in the
voice and the eyes. It has the irregularities of real corpora: faces out of sight, silence, frames without annotation,
several frame rates, two people in one video, and a trial with one label row more than video frames.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import check_length
from cache.corpus.manifest import PARTITIONS, Manifest, Trial
from cache.errors import AvFusionError, MissingFileError, SettingError
from cache.settings import check_ranges
from cache.targets import AFFECT, names_of
from extract.corpora.annotations import NOT_ANNOTATED, read_annotation, split_side
from extract.corpora.contract import Corpus
from extract.corpora.demo.face import Look, make_background
from extract.corpora.demo.media import remove_unfinished, write_text, write_video
from extract.corpora.demo.script import Script, at_frames, draw_run, draw_turns, write_script
from extract.corpora.demo.stage import Actor, cast_actor, draw_pictures
from extract.corpora.demo.voice import SAMPLE_RATE, Voice, speak
from extract.corpora.reading import SUBJECTS_HEADER, finish, of_trial, read_csv
from extract.media.timeline import scan

BATCHES = ("batch1", "batch2")
ANNOTATIONS = "6th_ABAW_Annotations/VA_Estimation_Challenge"
FOLDERS = {"train": "Train_Set", "validation": "Validation_Set", "test": "Test_Set"}

_RATES = (Fraction(25), Fraction(30000, 1001), Fraction(30))
_SAMPLE_RATES = (16_000, 44_100, 48_000)
_FEW_VIDEOS = 4  # up to this many are made in this process: starting others would take longer


@dataclass(frozen=True)
class Config:
    """What to generate.

    Attributes:
        seed: a different seed gives a different corpus.
        num_trials: at least 3; from 4 on, the last two share one video.
        num_subjects: at least 3; at most as many are used as there are videos.
        min_s, max_s: shortest and longest video, seconds, at least 1.
        width, height: of the pictures, pixels, even, at least 160 by 120.
    """

    seed: int = 7
    num_trials: int = 24
    num_subjects: int = 12
    min_s: float = 8.0
    max_s: float = 12.0
    width: int = 320
    height: int = 240

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"num_trials": (3, 1e6), "num_subjects": (3, 1e6), "min_s": (1, 1e6)}
        sides = {"width": self.width, "height": self.height}
        odd = {name: f"is {side}, expected an even number of pixels" for name, side in sides.items() if side % 2}
        check_ranges("corpus 'demo'", self, {**ranges, "width": (160, 8192), "height": (120, 8192)}, {}, odd)
        if self.min_s > self.max_s:
            raise SettingError(f"'min_s' is {self.min_s}, expected at most 'max_s', {self.max_s}. Change one of them.")


@dataclass(frozen=True)
class _Video:
    """One video to make: `trials` names its one or two people, from left to right."""

    index: int
    name: str
    rate: Fraction
    num_frames: int
    subject: str
    partition: str
    trials: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"{BATCHES[self.index % 2]}/{self.name}.mp4"


class DemoCorpus(Corpus):
    """The demo corpus on disk: `generate` writes it, `read` reads it like any other corpus."""

    generated = True
    config: Config = Config()

    def generate(self, root: Path) -> None:
        """Write the whole corpus under a folder, each file atomically; unfinished files of killed processes are removed.

        Args:
            root: the corpus folder, which need not exist.
        """
        remove_unfinished(root)
        videos = _plan(self.config)
        jobs = [(self.config, video, root) for video in videos]
        if len(videos) <= _FEW_VIDEOS:
            for job in jobs:
                _make_video(*job)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
                for _ in pool.map(_make_video, *zip(*jobs, strict=True)):
                    pass
        rows = sorted(f"{trial},{video.subject},{video.partition}\n" for video in videos for trial in video.trials)
        write_text(root / "subjects.csv", ",".join(SUBJECTS_HEADER) + "\n" + "".join(rows))

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus."""
        return (root / "subjects.csv").is_file() and (root / "truth").is_dir()

    def read(self, root: Path) -> Manifest:
        """Read a corpus folder.

        Raises:
            MissingFileError: if it holds no `subjects.csv`.
            CorpusError: if labels, videos or words are missing or wrong; lists every fault.
        """
        faults: list[str] = []
        trials = []
        for row in _read_subjects(root / "subjects.csv", faults):
            trial = _read_trial(root, *row, faults)
            if trial is not None:
                trials.append(trial)
        return finish(root, trials, AFFECT, faults)


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A separate random generator for each name."""
    return np.random.default_rng([seed, *"/".join(names).encode()])


def _plan(config: Config) -> list[_Video]:
    """Plan every video; the first subjects are for test, the next for validation, those of the pair for training."""
    shared = config.num_trials >= 4
    num_videos = config.num_trials - shared
    num_subjects = min(config.num_subjects, num_videos)
    num_test = max(1, round(num_subjects / 4))
    num_validation = max(1, round(num_subjects / 6))
    rng = _rng(config.seed, "plan")
    videos = []
    for index in range(num_videos):
        rate = _RATES[index % 3]
        subject = index % num_subjects
        pair = shared and index == num_videos - 1
        named = f"{10 + index}-{round(rate)}-{config.width}x{config.height}"
        name = f"video{59 + index}" if index % 2 or pair else named
        trials = (f"{name}_left", f"{name}_right") if pair else (name,)
        partition = "test" if subject < num_test else "validation" if subject < num_test + num_validation else "train"
        num_frames = int(rng.uniform(config.min_s, config.max_s) * rate)
        videos.append(_Video(index, name, rate, num_frames, f"subject{subject + 1:02d}", partition, trials))
    return videos


def _make_video(config: Config, video: _Video, root: Path) -> None:
    """Write one video with all files of its trials."""
    scripts = _write_scripts(config, video)
    actors = [_cast(config, video, script, number) for number, script in enumerate(scripts)]
    wall = make_background(_rng(config.seed, video.name, "wall"), config.height, config.width)
    pictures = draw_pictures(wall, actors, by_hand=video.index % 2 == 1)
    sound = _record_sound(config, video, scripts)
    sample_rate = _SAMPLE_RATES[video.index % len(_SAMPLE_RATES)]
    size = (config.width, config.height)
    write_video(root / video.path, pictures, size, video.rate, sound, SAMPLE_RATE, sample_rate)
    for trial, actor in zip(video.trials, actors, strict=True):
        _write_labels(config, video, root, trial, actor.script)
        words = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in actor.script.words]
        write_text(_words_path(root, trial), json.dumps({"words": words}, indent=1) + "\n")
        _write_truth(root / "truth" / f"{trial}.json", actor)


def _write_scripts(config: Config, video: _Video) -> list[Script]:
    """Write one script per person; two of three videos hide a face for a while, the left one if there are two."""
    people = len(video.trials)
    turns = draw_turns(_rng(config.seed, video.name, "turns"), float(video.num_frames / video.rate), people)
    scripts = []
    for number, trial in enumerate(video.trials):
        hides = number == 0 if people == 2 else video.index % 3 != 2
        rng = _rng(config.seed, trial, "script")
        scripts.append(write_script(rng, video.num_frames, video.rate, turns[number], hides))
    return scripts


def _cast(config: Config, video: _Video, script: Script, number: int) -> Actor:
    """Give a script to a person and a place in the picture."""
    people = len(video.trials)
    unit = config.height / 240
    zoom = _rng(config.seed, video.name, "zoom").uniform(0.95, 1.08)
    look = Look.random(_rng(config.seed, video.subject, str(number), "look"))
    centre = (config.width * (number + 0.5) / people, 116 * unit)
    return cast_actor(look, script, video.num_frames, video.rate, centre, (45 if people == 1 else 36) * unit * zoom)


def _record_sound(config: Config, video: _Video, scripts: list[Script]) -> NDArray[np.float32]:
    """(S,) everybody's voice, mixed."""
    sound: NDArray[np.float32] = np.zeros(1, np.float32)
    for number, script in enumerate(scripts):
        voice = Voice.random(_rng(config.seed, video.subject, str(number), "voice"))
        breath = _rng(config.seed, video.name, str(number), "breath")
        sound = sound + speak(script.words, voice, script.voice_arousal, script.voice_valence, breath)
    return np.clip(sound[: round(video.num_frames / video.rate * SAMPLE_RATE)], -1.0, 1.0)


def _write_labels(config: Config, video: _Video, root: Path, trial: str, script: Script) -> None:
    """Write a trial's annotation file, with the irregularities of real ones."""
    num_rows = video.num_frames + (video.index == 0)  # as Aff-Wild2 does now and then
    labels = np.stack([at_frames(track, num_rows, video.rate) for track in (script.valence, script.arousal)], axis=1)
    rng = _rng(config.seed, trial, "unannotated")
    if video.index % 3 == 1:
        start, stop = draw_run(rng, num_rows, 0.8 * float(video.rate))
        labels[start:stop] = NOT_ANNOTATED
    if video.index == 1:
        labels[:4, rng.integers(2)] = NOT_ANNOTATED
    rows = [",".join("-5" if value == NOT_ANNOTATED else f"{value:.3f}" for value in row) for row in labels]
    write_text(_label_path(root, trial, video.partition), "\n".join([",".join(names_of(AFFECT)), *rows]) + "\n")


def _write_truth(path: Path, actor: Actor) -> None:
    """Write where the face is, for tests; readers ignore it."""
    document = {
        "hidden": actor.script.hidden,
        "centres": [[round(pose.x, 1), round(pose.y, 1)] for pose in actor.poses],
        "landmarks": [[[round(x, 1), round(y, 1)] for x, y in points] for points in actor.find_landmarks()],
    }
    write_text(path, json.dumps(document) + "\n")


def _label_path(root: Path, trial: str, partition: str) -> Path:
    return root / ANNOTATIONS / FOLDERS[partition] / f"{trial}.txt"


def _words_path(root: Path, trial: str) -> Path:
    return root / "words" / f"{trial}.json"


def _read_subjects(path: Path, faults: list[str]) -> list[tuple[str, str, str]]:
    """(trial, subject, partition) of every row."""
    if not path.is_file():
        raise MissingFileError(f"No '{path}'. Generate the demo corpus there first.")
    lines = read_csv(path)
    if not lines or lines[0] != SUBJECTS_HEADER:
        faults.append(f"'{path}' line 1: expected '{','.join(SUBJECTS_HEADER)}'")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) == 3 and all(line) and line[2] in PARTITIONS:
            rows.append((line[0], line[1], line[2]))
        else:
            faults.append(f"'{path}' line {number}: '{','.join(line)}', expected a trial, a subject and a partition")
    return rows


def _read_trial(root: Path, name: str, subject: str, partition: str, faults: list[str]) -> Trial | None:
    """Read one trial, or add its faults to the list and return None."""
    found = len(faults)
    video, face = split_side(name)
    videos = [f"{batch}/{video}.mp4" for batch in BATCHES if (root / batch / f"{video}.mp4").is_file()]
    if len(videos) != 1:
        where = f"'{root}', batches {' and '.join(BATCHES)}"
        faults.append(f"trial '{name}': {len(videos)} videos '{video}.mp4' in {where}, expected 1")
    words = _words_path(root, name)
    if not words.is_file():
        faults.append(f"trial '{name}': no words '{words}'")
    try:
        labels = read_annotation(_label_path(root, name, partition))
        if len(faults) > found:
            return None
        pictures = scan(root / videos[0]).clock
        check_length(name, "video frames", pictures.num_frames, len(labels), str(root / videos[0]))
    except AvFusionError as error:
        faults.append(of_trial(name, error))
        return None
    media = {"video": videos[0], "audio": videos[0], "words": words.relative_to(root).as_posix()}
    return Trial(name, subject, partition, pictures.resized(len(labels)), media, labels, face)
