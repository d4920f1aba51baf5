"""Frames per second from raw video to MobileFaceNet features, against the embedding alone, and where the rest goes.

    python -m benchmarks.whole_way [--media ../shared/media] [--frames 160] [--rounds 3] [--runtime torch]
    python -m benchmarks.whole_way --memory [--minutes 0.5 5]

One person and a street, from the videos of `--media` (without them: a demo face, and six of them), forwards and backwards until there are
enough pictures, as H.264 of 640x480 and 1080p. The whole way is `avfusion crops` and the engine, from a video that was never scanned to a
finished store; networks are loaded before. "Embedding alone" is the bare network on as many faces as the video has frames. One process
on one core, one thread of torch; the calls take turns, and the best round of each counts.

The second table has the parts of the way, each measured alone, in ms per frame of the video; "other" is what is then left of the whole.
Decoding counts as often as the crops stage decodes the pictures, which is said as well. With `--memory`: peak memory of the command on the street at 1080p, two lengths.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
from PIL import Image, ImageOps

from benchmarks.extraction import bare_network, bind, machine, make, measure
from benchmarks.memory_long import peak_mb
from cache.corpus.manifest import Manifest, Trial
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.cropping import Cropper, crops_folder
from extract.engine.devices import keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.faces.crop_files import CropReader
from extract.faces.crops import encode_crop
from extract.faces.detection import align_face, make_detector
from extract.faces.search import find_faces
from extract.faces.settings import CropConfig
from extract.media import video
from extract.media.timeline import scan
from extract.media.video import Converter, timed_pictures

VIDEOS = {"one person": "single_face.mp4", "street": "people_1080p_aac.mp4"}
SIZES = {"640x480": (640, 480), "1080p": (1920, 1080)}
EMBEDDING, DECODING = "embed", "decode"
PARTS = ("scan", DECODING, "shrink", "search, follow", "to RGB", "align", "write", "read", EMBEDDING)
RATE_HZ = 25


def read_pictures(media: Path, name: str, folder: Path) -> list[Image.Image]:
    """The pictures of a real video, or of the demo's; several faces of the latter make a street."""
    path = media / VIDEOS[name]
    if not path.is_file():
        from benchmarks.memory import write_video

        path = folder / "demo.mp4"
        write_video(path, 4)
    with av.open(str(path)) as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    if path.name == "demo.mp4" and name == "street":
        return [Image.fromarray(np.tile(np.asarray(picture), (2, 3, 1))) for picture in pictures]
    return pictures


def write_video(path: Path, pictures: list[Image.Image], size: tuple[int, int], num_frames: int) -> None:
    """The pictures, cut and scaled to a size, to and fro."""
    frames = [av.VideoFrame.from_image(ImageOps.fit(each, size)).reformat(format="yuv420p") for each in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index, frame in enumerate(islice(cycle([*frames, *frames[-2:0:-1]]), num_frames)):
            frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Way:
    """The whole way of one video, and its parts; each of them says how many frames of it were done."""

    def __init__(self, path: Path, runtime: str, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.options, self.config = EngineOptions(runtime=runtime, device="cpu"), CropConfig()
        trial = Trial("face", "face", "", scan(path).clock, {"video": path.name})
        self.manifest, self.clock = Manifest(path.parent, (trial,)), trial.clock
        self.cropper = Cropper(self.manifest, self.config, crops_folder(folder / "crops", self.config), "cpu", True)
        self.backbone = load_backbone("mobilefacenet", "random")
        self.executor = make(self.backbone, self.options)
        self.track = self.cropper.track(trial)
        self.times_decoded = self.count_decoded() / self.clock.num_frames

    def count_decoded(self) -> int:
        """Pictures that the crops stage decodes."""
        number, decode = 0, video.timed_pictures

        def counted(*arguments: Any) -> Iterator[Any]:
            nonlocal number
            for each in decode(*arguments):
                number += 1
                yield each

        with mock.patch.object(video, "timed_pictures", counted):
            self.crop()
        return number

    def crop(self) -> int:
        """The crops stage, on a video that nobody has seen before."""
        os.utime(self.path)
        outcome = self.cropper.crop(self.manifest.trials)
        assert not outcome.failures, outcome.failures
        return self.clock.num_frames

    def embed(self) -> int:
        """From crops to a finished store."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            store = FeatureStore.create(Path(place) / "features.zarr", self.backbone.recipe())
            trials, crops = self.manifest.trials, self.cropper.folder
            outcome = extract_features(
                self.backbone, store, self.manifest, trials, crops, self.options, executor=lambda: self.executor
            )
        assert not outcome.failures, outcome.failures
        return self.clock.num_frames

    def calls(self) -> dict[str, Callable[[], int]]:
        """The whole way, the embedding alone, and the parts, each of which says how many frames of the video it did."""
        timeline = scan(self.path)
        frames = [frame for _, frame in timed_pictures(self.path, timeline)]
        to_small, to_full = (Converter(side, timeline.pixel_aspect) for side in (self.config.faces.max_side, None))
        small, detector = [to_small(frame) for frame in frames], make_detector(self.config.faces)
        seen = np.flatnonzero(self.track.present)
        faces = [(to_full(frames[at]), self.track.landmarks[at]) for at in seen]
        reader = CropReader(next(self.cropper.folder.glob("*.zip")), self.clock)

        def each(act: Callable[..., Any], items: Callable[[], Iterable[Any]]) -> Callable[[], int]:
            def run() -> int:
                for item in items():
                    act(*item)
                return len(frames)

            return run

        def rescan() -> Iterator[tuple[()]]:
            os.utime(self.path)
            scan(self.path)
            yield ()

        def nothing(*_: Any) -> None:
            """The iteration is what takes time."""

        return {
            "whole": lambda: self.crop() and self.embed(),
            "crops": self.crop,
            "from crops": self.embed,
            EMBEDDING: bare_network(self.backbone, len(frames), self.options),
            "scan": each(nothing, rescan),
            DECODING: each(nothing, lambda: timed_pictures(self.path, timeline)),
            "shrink": each(to_small, lambda: zip(frames, strict=True)),
            "search, follow": each(nothing, lambda: find_faces(enumerate(small), detector, self.config.faces)),
            "to RGB": each(to_full, lambda: ([frames[at]] for at in seen)),
            "align": each(align_face, lambda: faces),
            "align, write": each(lambda picture, points: encode_crop(picture, points, self.config), lambda: faces),
            "read": each(nothing, lambda: reader.read(reader.frames)),
        }


def profile(name: str, size: str, way: Way, rounds: int) -> tuple[str, str]:
    """A row of each table."""
    speed = measure(way.calls(), rounds)
    share = float(way.track.present.mean())
    ms = {part: 1000 / each for part, each in speed.items()}
    ms[EMBEDDING] *= share
    ms["write"] = ms.pop("align, write") - ms["align"]
    parts = {part: ms[part] * (way.times_decoded if part == DECODING else 1) for part in PARTS}
    parts["other"] = ms["whole"] - sum(parts.values())
    ratio = speed["whole"] / speed[EMBEDDING]
    first = f"| {name} | {size} | {share:.0%} | {speed[EMBEDDING]:.1f} | {speed['from crops']:.1f} | {speed['crops']:.1f} | {speed['whole']:.1f} | {ratio:.2f} |"
    row = " | ".join(f"{each:.2f} ({each / ms['whole']:.0%})" for each in parts.values())
    return first, f"| {name} | {size} | {ms['whole']:.2f} | {way.times_decoded:.2f} | {row} |"


def show_speed(options: argparse.Namespace) -> None:
    """Both tables."""
    keep_big_buffers()
    bind(1)
    print(f"{machine(1, 'cpu')}; {options.runtime}, {options.frames} frames, best of {options.rounds} rounds\n")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in VIDEOS:
            pictures = read_pictures(options.media, name, folder)
            for label, size in SIZES.items():
                path = folder / f"{name} {label}.mp4"
                write_video(path, pictures, size, options.frames)
                way = Way(path, options.runtime, folder / path.stem)
                rows.append(profile(name, label, way, options.rounds))
    print(
        "| video | size | frames with the face | embedding alone, frames/s | from crops | to crops | whole way | whole / embedding |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(first for first, _ in rows))
    print(
        f"\n| video | size | whole, ms per frame | times decoded | {' | '.join(PARTS)} | other |\n|{'---|' * (len(PARTS) + 5)}"
    )
    print("\n".join(second for _, second in rows))


def show_memory(options: argparse.Namespace) -> None:
    """Peak memory against length."""
    print("| street, 1080p | peak RSS, MB | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder, first = Path(place), 0.0
        pictures = read_pictures(options.media, "street", folder)
        for minutes in options.minutes:
            path = folder / "video.mp4"
            write_video(path, pictures, SIZES["1080p"], round(minutes * 60 * RATE_HZ))
            peak = peak_mb(path, folder / f"out{minutes}")
            first = first or peak
            print(f"| {minutes:g} min | {peak:.0f} | {peak / first:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=Path(__file__).parents[2] / "shared/media")
    parser.add_argument("--frames", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", default="torch", choices=["torch", "openvino"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 5])
    options = parser.parse_args()
    (show_memory if options.memory else show_speed)(options)


if __name__ == "__main__":
    main()
