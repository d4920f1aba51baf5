"""Faces per second and how far they lie from those of facenet-pytorch's own MTCNN, one frame at a time.

    python -m benchmarks.detection [--media ../shared/media] [--frames 48] [--rounds 3]

Pictures of 640x480, cut or shrunk from the videos of `--media`. All variants take turns in one process bound to one core
with one thread of torch; the best round of each counts. Boxes and recall are compared with `MTCNN.detect` for the same
smallest face; its pyramid starts from that size, and another size moves its boxes by several pixels. Prints two tables:
detection in every frame, and in every k-th frame with what that costs in landmarks.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from extract.engine.devices import keep_big_buffers
from extract.faces.detection import Detection, Detector, FaceConfig, detect_faces, make_detector, match_boxes
from extract.faces.tracking import follow_face

SIZE = (640, 480)
SMALLEST = 40  # pixels of a face
EVERY = (1, 3, 5, 10)


def read_pictures(path: Path, number: int) -> list[NDArray[np.uint8]]:
    """The first pictures of a video, cut to 4:3 and scaled to 640x480."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pictures.append(np.asarray(ImageOps.fit(frame.to_image(), SIZE)))
            if len(pictures) == number:
                break
    return pictures


def own_loop(network: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """facenet-pytorch's `detect`, picture by picture, faces of probability 0.9 and more."""
    found = []
    for picture in pictures:
        boxes, probability, points = network.detect(Image.fromarray(picture), landmarks=True)
        if boxes is None:
            boxes, probability, points = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
        sure = np.asarray(probability, float) >= 0.9
        found.append(Detection(*(np.asarray(part, np.float32)[sure] for part in (boxes, probability, points))))
    return found


def halved(detector: Detector) -> Detector:
    """Detection at half resolution."""

    def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        small = [np.asarray(Image.fromarray(picture).reduce(2)) for picture in pictures]
        return [faces.scaled((2.0, 2.0)) for faces in detector(small)]

    return detect


def in_batches(detector: Detector, pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """Sixteen pictures at a time."""
    return [faces for i in range(0, len(pictures), 16) for faces in detector(pictures[i : i + 16])]


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Best seconds of each call, the calls taking turns after one round that does not count; and their results."""
    best, results = dict.fromkeys(calls, np.inf), {}
    for index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            results[name] = call()
            if index:
                best[name] = min(best[name], time.perf_counter() - start)
    return best, results


def compare(expected: Sequence[Detection], found: Sequence[Detection]) -> str:
    """Recall and distances of box edges, pixels."""
    hits, total, surplus, distances = 0, 0, 0, [0.0]
    for one, other in zip(expected, found, strict=True):
        pairs = match_boxes(one.boxes, other.boxes, 0.5)
        hits, total, surplus = hits + len(pairs), total + len(one.boxes), surplus + len(other.boxes) - len(pairs)
        distances += [float(np.abs(one.boxes[i] - other.boxes[j]).mean()) for i, j in pairs]
    recall = f"{hits}/{total}" + (f" (+{surplus})" if surplus else "")
    return f"{recall} | {np.median(distances):.2f} / {np.quantile(distances, 0.95):.2f}"


def every_frame(path: Path, pictures: list[NDArray[np.uint8]], rounds: int) -> None:
    """Detection in every frame."""
    from facenet_pytorch import MTCNN

    default, same = MTCNN(keep_all=True), MTCNN(keep_all=True, min_face_size=SMALLEST)
    whole = make_detector(FaceConfig(min_face_size=SMALLEST))
    half = halved(make_detector(FaceConfig(min_face_size=SMALLEST // 2)))
    seconds, found = measure(
        {
            "MTCNN.detect, its default": lambda: own_loop(default, pictures),
            f"MTCNN.detect, faces from {SMALLEST} px": lambda: own_loop(same, pictures),
            "ours, 640x480": lambda: in_batches(whole, pictures),
            "ours, 320x240": lambda: in_batches(half, pictures),
        },
        rounds,
    )
    reference = list(seconds)[:2]
    for name, time_s in seconds.items():
        ratios = " | ".join(f"{seconds[other] / time_s:.2f}" for other in reference)
        agreement = compare(found[reference[1]], found[name])
        print(f"| {path.stem} | {name} | {len(pictures) / time_s:.1f} | {ratios} | {agreement} |")


def every_kth(path: Path, pictures: list[NDArray[np.uint8]], rounds: int) -> None:
    """Detection in every k-th frame, landmarks in between by interpolation."""
    detector = halved(make_detector(FaceConfig(min_face_size=SMALLEST // 2)))

    def track(every: int, settle: bool) -> Any:
        config = FaceConfig(every=every, settle=settle, min_face_size=SMALLEST)
        found = detect_faces(enumerate(pictures), detector, config)
        return follow_face(found, config, "largest", len(pictures), (SIZE[1], SIZE[0]))

    ways = {f"{k}{'' if settle else ', not settled'}": (k, settle) for settle in (True, False) for k in EVERY}
    seconds, tracks = measure({name: lambda way=way: track(*way) for name, way in ways.items()}, rounds)
    whole = tracks["1"]
    for name in ways:
        other = tracks[name]
        both = whole.present & other.present
        error = np.linalg.norm(whole.landmarks[both] - other.landmarks[both], axis=2).ravel()
        width = np.ptp(whole.landmarks[both][..., 0], axis=1).mean() if both.any() else np.nan
        text = f"{np.median(error):.2f} / {np.quantile(error, 0.95):.2f}" if both.any() else "-"
        gone, surplus = (
            int(frames.sum()) for frames in (whole.present & ~other.present, other.present & ~whole.present)
        )
        print(
            f"| {path.stem} | {name} | {seconds['1'] / seconds[name]:.2f} | {text} | {width:.0f} | {gone}, {surplus} |"
        )


def main() -> None:
    """Measure every video and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=Path(__file__).parents[2] / "shared/media")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    videos = sorted(options.media.glob("*.mp4"))
    if not videos:
        print(f"No videos in '{options.media}'; nothing is measured.")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    torch.set_num_threads(1)
    keep_big_buffers()
    pictures = {path: read_pictures(path, options.frames) for path in videos}
    print(f"| video | detector | frames/s | x default | x {SMALLEST} px | recall | box edges, px: median / 95 % |")
    print("|---|---|---|---|---|---|---|")
    for path, frames in pictures.items():
        every_frame(path, frames, options.rounds)
    print(
        "\n| video | every | x every frame | landmarks, px: median / 95 % | between eyes and mouth, px | frames lost, won |"
    )
    print("|---|---|---|---|---|---|")
    for path, frames in pictures.items():
        every_kth(path, frames, options.rounds)


if __name__ == "__main__":
    main()
