"""Malformed inputs for every parser of outside files: what is read, what is an error, and what should never happen.

    python -m benchmarks.malformed --inputs 10000

Each input is a valid file with a few random changes: bytes flipped, cut or repeated, numbers replaced by absurd ones. It has to be
read, or to raise one of this project's errors, within seconds and without asking for gigabytes.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import soundfile
from PIL import Image

from cache.clock import FrameClock
from cache.errors import AvFusionError
from cache.formats.interchange import ImportOptions, import_features
from extract.corpora.annotations import read_annotation
from extract.corpora.label_tables import read_table
from extract.corpora.muse import MuSe
from extract.faces.crop_files import CropReader
from extract.media.audio import load_audio
from extract.media.video import probe
from extract.words.transcripts import read_words

LONGEST_S = 5.0
ABSURD = (
    b"9" * 6000,
    b"-1",
    b"1e400",
    b"nan",
    b"4e12",
    b"99999999999",
    b"{\\" * 1000,
    b"[" * 3000,
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"-->",
)

Parser = tuple[str, bytes, Callable[[Path], object]]  # name of the file, sound content, what reads it


def parsers() -> list[Parser]:
    """One sound file for every parser, and how it is read."""
    cues = "1\n00:00:00,500 --> 00:00:02,000\none <i>two</i>\n\n2\n00:00:02,500 --> 00:00:04,000\nthree\n\n"
    words = {"segments": [{"start": 0, "end": 2, "words": [{"word": "a", "start": 0.1, "end": 0.4}, {"word": "b"}]}]}
    grid = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 2\ntiers? <exists>\nsize = 1\nitem []:\n    item [1]:\n'
        '        class = "IntervalTier"\n        name = "words"\n        xmin = 0\n        xmax = 2\n        intervals: size = 1\n'
        '        intervals [1]:\n            xmin = 0\n            xmax = 2\n            text = "hello"\n'
    )
    muse = "timestamp,value\n" + "".join(f"{250 * i},0.1\n" for i in range(20))
    features = "timestamp,segment_id,f0,f1\n" + "".join(f"{250 * i},1,0.5,{i}\n" for i in range(20))
    return [
        ("a.srt", cues.encode(), read_words),
        ("a.vtt", ("WEBVTT\n\n" + cues.replace(",", ".")).encode(), read_words),
        ("a.json", json.dumps(words).encode(), read_words),
        ("a.TextGrid", grid.encode(), read_words),
        ("a.csv", b"time,valence,arousal\n" + b"".join(b"%d,0.1,-0.2\n" % i for i in range(30)), read_table),
        ("a.txt", b"valence,arousal\n" + b"0.5,-5\n0.1,0.2\n" * 20, read_annotation),
        ("muse/label_segments/valence/1.csv", muse.encode(), _read_muse),
        ("features/1.csv", features.encode(), _import("muse")),
        ("npy/a.npy", _bytes(lambda file: np.save(file, np.ones((20, 4), np.float32))), _import("npy")),
        ("a.h5", _hdf5(), _import("hdf5")),
        ("crops.zip", _crops(), _read_crops),
        ("a.wav", _bytes(lambda file: soundfile.write(file, np.zeros(4000), 16000, format="WAV")), load_audio),
        ("a.mkv", _video("matroska"), probe),
        ("a.mp4", _video("mp4"), probe),
    ]


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content["a"] = np.ones((20, 4), np.float32)
    return file.getvalue()


def _crops() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in (1, 2, 5):
            archive.writestr(f"{number:05d}.png", _bytes(lambda png: Image.new("RGB", (16, 16)).save(png, "png")))
    return file.getvalue()


def _video(form: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index * 20, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _read_muse(path: Path) -> object:
    root = path.parents[2]
    for part, text in (("metadata/partition.csv", "Id,Partition\n1,train\n"), ("label_segments/arousal/1.csv", None)):
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        (root / part).write_bytes(path.read_bytes() if text is None else text.encode())
    return MuSe().read(root)


def _import(kind: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        with tempfile.TemporaryDirectory() as folder:
            source = path if kind == "hdf5" else path.parent
            return import_features(source, kind, Path(folder), ImportOptions("x", "audio", "4"))

    return read


def _read_crops(path: Path) -> object:
    reader = CropReader(path, FrameClock(Fraction(25), 10))
    return reader.read(reader.frames, 16)


def damage(content: bytes, chance: random.Random) -> bytes:
    """A few random changes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[place : place + chance.randint(1, 40)]
        elif kind == 2:
            data[place:place] = chance.choice(ABSURD)
        elif kind == 3:
            data[place:place] = data[place : place + 60] * chance.randint(1, 50)
        else:
            data = data[: chance.randrange(len(data) + 1)]
    return bytes(data)


def try_all(inputs: int, seed: int, folder: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts by parser of what was read and refused, and every input that did neither or took too long."""
    chance, table, faults = random.Random(seed), {}, []
    known = parsers()
    for number in range(inputs):
        name, content, read = known[number % len(known)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage(content, chance))
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            result = "read"
        except AvFusionError as error:
            result = "refused" if "\n\n" not in str(error) else "several lines"
        except Exception as error:
            result = "other error"
            faults.append(f"{name} {number}: {type(error).__name__}: {str(error)[:120]}")
        if time.perf_counter() - start > LONGEST_S:
            faults.append(f"{name} {number}: {time.perf_counter() - start:.1f} s")
        table.setdefault(name, Counter())[result] += 1
    return table, faults


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    how = options.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table, faults = try_all(how.inputs, how.seed, Path(folder))
    print("| file | read | refused | other |\n|---|---|---|---|")
    for name, counts in table.items():
        print(
            f"| {name} | {counts['read']} | {counts['refused']} | {counts.total() - counts['read'] - counts['refused']} |"
        )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{how.inputs} inputs in {time.perf_counter() - start:.0f} s, peak memory of the process {peak_mb} MB, {len(faults)} faults"
    )
    print("\n".join(faults))


if __name__ == "__main__":
    main()
