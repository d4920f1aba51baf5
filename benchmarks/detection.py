"""Faces per second and how far they lie from those of facenet-pytorch's own MTCNN, one frame at a time.

    python -m benchmarks.detection [--media ../shared/media] [--frames 48] [--rounds 3]

Pictures of 640x480, cut or shrunk from the videos of `--media`. All variants take turns in one process bound to one core
with one thread of torch; the best round of each counts. Boxes and recall are compared with `MTCNN.detect` for the same
smallest face; its pyramid starts from that size, and another size moves its boxes by several pixels. Prints two tables: searching every
picture, and searching every k-th one while faces are followed in between. The second one also has every picture searched after it was
shifted by some pixels: how far landmarks of one network lie apart that has seen the same face twice.
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
from extract.faces.detection import Detection, Detector, make_detector, match_boxes
from extract.faces.linking import link
from extract.faces.people import Crowd, group_by_place
from extract.faces.search import Sight, find_faces
from extract.faces.settings import FaceConfig
from extract.faces.tracking import Track, follow_face

Search = Callable[[Sequence[NDArray[np.uint8]]], list[Detection]]
SIZE = (640, 480)
SMALLEST = 40  # pixels of a face
EVERY = (5, 10, 20)
SHIFTS = ((1, 0), (3, 2))  # pixels to the right and down


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


def halved(detector: Detector) -> Search:
    """Searching at half resolution."""

    def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        small = [np.asarray(Image.fromarray(picture).reduce(2)) for picture in pictures]
        return [faces.scaled((2.0, 2.0)) for faces in detector.search(small)]

    return detect


def in_batches(search: Search, pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """Sixteen pictures at a time."""
    return [faces for i in range(0, len(pictures), 16) for faces in search(pictures[i : i + 16])]


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
            "ours, 640x480": lambda: in_batches(whole.search, pictures),
            "ours, 320x240": lambda: in_batches(half, pictures),
        },
        rounds,
    )
    reference = list(seconds)[:2]
    for name, time_s in seconds.items():
        ratios = " | ".join(f"{seconds[other] / time_s:.2f}" for other in reference)
        agreement = compare(found[reference[1]], found[name])
        print(f"| {path.stem} | {name} | {len(pictures) / time_s:.1f} | {ratios} | {agreement} |")


def shifted(detector: Detector, pictures: Sequence[NDArray[np.uint8]], by: tuple[int, int]) -> list[Detection]:
    """The faces of pictures that were moved right and down."""
    right, down = by
    height, width = pictures[0].shape[:2]
    moved = [np.pad(each, ((down, 0), (right, 0), (0, 0)), "edge")[:height, :width] for each in pictures]
    back = np.array(by, np.float32)
    return [
        Detection(faces.boxes - np.tile(back, 2), faces.probabilities, faces.landmarks - back)
        for faces in in_batches(detector.search, moved)
    ]


def every_kth(path: Path, pictures: list[NDArray[np.uint8]], rounds: int) -> None:
    """Searching every k-th frame, and following the faces in between."""
    from facenet_pytorch import MTCNN

    detector, default = make_detector(FaceConfig()), MTCNN(keep_all=True)

    def follow(every: int) -> list[Detection]:
        return [sight.faces for sight in find_faces(enumerate(pictures), detector, FaceConfig(every=every))]

    calls: dict[str, Callable[[], list[Detection]]] = {
        "MTCNN.detect, its default": lambda: own_loop(default, pictures),
        "every picture": lambda: in_batches(detector.search, pictures),
        **{f"every picture, moved by {by}": lambda by=by: shifted(detector, pictures, by) for by in SHIFTS},
        **{f"every {k}th": lambda k=k: follow(k) for k in EVERY},
    }
    seconds, found = measure(calls, rounds)
    whole = found["every picture"]
    known = track(whole)
    for name in list(calls)[2:]:
        hits, total, errors = agreement(whole, found[name])
        other = track(found[name])
        both = known.present & other.present
        apart = np.linalg.norm(known.landmarks[both] - other.landmarks[both], axis=2).max(axis=1)
        same = f"{int((apart < side_of(known)).sum())} of {int(known.present.sum())}"
        ratios = " | ".join(f"{seconds[one] / seconds[name]:.1f}" for one in list(calls)[:2])
        print(
            f"| {path.stem} | {name} | {ratios} | {hits}/{total} | "
            f"{np.median(errors):.1f} / {np.quantile(errors, 0.95):.1f} | {same} |"
        )


def agreement(whole: Sequence[Detection], found: Sequence[Detection]) -> tuple[int, int, list[float]]:
    """Sightings found again, all sightings, and distances of landmarks in % of the face's side."""
    hits, errors = 0, []
    for faces, others in zip(whole, found, strict=True):
        for one, other in match_boxes(faces.boxes, others.boxes, 0.4):
            hits += 1
            side = float(np.sqrt(np.prod(faces.boxes[one, 2:] - faces.boxes[one, :2])))
            errors += (np.linalg.norm(faces.landmarks[one] - others.landmarks[other], axis=1) / side * 100).tolist()
    return hits, sum(len(faces.boxes) for faces in whole), errors


def track(found: Sequence[Detection]) -> Track:
    """The largest face through these frames."""
    sights = [Sight(frame, faces, False) for frame, faces in enumerate(found)]
    people = group_by_place(link(sights, FaceConfig()))
    return follow_face(Crowd(tuple(people), False, 0, len(found), (SIZE[1], SIZE[0])), "largest")


def side_of(known: Track) -> float:
    """Twice the median distance between the eyes, about the side of the face, pixels."""
    eyes = known.landmarks[known.present][:, :2]
    return 2 * float(np.median(np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)))


def main() -> None:
    """Measure every video and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=Path(__file__).parents[2] / "shared/media")
    parser.add_argument("--frames", type=int, default=72)
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
        "\n| video | searched | x MTCNN | x every picture | sightings | landmarks, % of side: median / 95 % | same person |"
    )
    print("|---|---|---|---|---|---|---|")
    for path, frames in pictures.items():
        every_kth(path, frames, options.rounds)


if __name__ == "__main__":
    main()
