"""How much it changes an embedding that faces are followed instead of searched for in every picture.

    python -m benchmarks.jitter [--media ../shared/media] [--weights ../shared/weights/mobilefacenet_foamliu.pt] [--every 10]

Every face of each video is cut out twice, where a search of the picture sees it and where it is followed, and embedded by a network that
tells people apart. Prints the cosine of the two, next to that of the same search of a picture moved by some pixels, and that of a face
and the same face in the next picture.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detection import SHIFTS, in_batches, shifted
from extract.backbones.contract import load_backbone
from extract.engine.devices import keep_big_buffers
from extract.faces.detection import Detection, Detector, align_face, make_detector, match_boxes
from extract.faces.finding import enlarging
from extract.faces.likeness import Embedder, unit
from extract.faces.search import find_faces
from extract.faces.settings import FaceConfig
from extract.media.timeline import scan
from extract.media.video import read_frames

Pictures = Sequence[NDArray[np.uint8]]
SHARED = Path(__file__).parents[2] / "shared"
SAME_FACE = 0.4  # intersection over union


def make_embedder(weights: Path) -> Embedder:
    """MobileFaceNet with these weights; embeddings of norm 1."""
    network = load_backbone("mobilefacenet", str(weights))

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return unit(network.embed(torch.from_numpy(faces)).numpy())

    return embed


def describe(pictures: Pictures, found: Sequence[Detection], embed: Embedder) -> list[NDArray[np.float32]]:
    """(N, D) of the faces of each picture."""
    rows = []
    for picture, faces in zip(pictures, found, strict=True):
        crops = [align_face(picture, landmarks) for landmarks in faces.landmarks]
        rows.append(embed(np.stack(crops)) if crops else np.zeros((0, 1), np.float32))
    return rows


def cosines(
    one: Sequence[Detection],
    other: Sequence[Detection],
    rows: Sequence[NDArray[np.float32]],
    others: Sequence[NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Between the embeddings of the faces that both have."""
    pairs = zip(one, other, rows, others, strict=True)
    return np.array(
        [
            mine[i] @ theirs[j]
            for faces, more, mine, theirs in pairs
            for i, j in match_boxes(faces.boxes, more.boxes, SAME_FACE)
        ]
    )


def measure(path: Path, detector: Detector, embed: Embedder, every: int) -> None:
    """The rows of one video."""
    config, clock = FaceConfig(every=every), scan(path).clock
    pictures = [picture for _, picture in read_frames(path, clock, path.stem)]
    small = [picture for _, picture in read_frames(path, clock, path.stem, max_side=config.max_side)]
    size = pictures[0].shape[0], pictures[0].shape[1]

    def moved(by: tuple[int, int]) -> Detector:
        return Detector(lambda some: shifted(detector, some, by), detector.measure)

    finder = enlarging(detector, size, config.max_side)
    whole = in_batches(finder.search, small)
    known = describe(pictures, whole, embed)
    ways = {f"searched, moved by {by}": enlarging(moved(by), size, config.max_side).search(small) for by in SHIFTS}
    ways[f"every {every}th searched, followed between"] = [
        sight.faces for sight in find_faces(enumerate(small), finder, config)
    ]
    table = {name: cosines(whole, found, known, describe(pictures, found, embed)) for name, found in ways.items()}
    table["the next picture"] = cosines(whole[:-1], whole[1:], known[:-1], known[1:])
    for name, values in table.items():
        least = " | ".join(f"{np.quantile(values, at):.3f}" for at in (0.5, 0.05, 0.01))
        print(f"| {path.stem} | {name} | {len(values)} | {least} |", flush=True)


def main() -> None:
    """Measure every video and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=SHARED / "media")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights/mobilefacenet_foamliu.pt")
    parser.add_argument("--every", type=int, default=FaceConfig().every)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    videos = sorted(options.media.glob("*.mp4"))
    if not videos or not options.weights.is_file():
        print(f"No videos in '{options.media}', or no weights '{options.weights}'; nothing is measured.")
        return
    torch.set_num_threads(1)
    keep_big_buffers()
    detector, embed = make_detector(FaceConfig()), make_embedder(options.weights)
    print(
        "| video | compared with a search of the picture | faces | cosine: median | 5 % | 1 % |\n|---|---|---|---|---|---|"
    )
    for path in videos:
        measure(path, detector, embed, options.every)


if __name__ == "__main__":
    main()
