"""Whose face it is: by the picture given, with an embedder of colours instead of FaceNet."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.errors import MediaError, MissingFileError
from extract.backbones.contract import load_backbone
from extract.engine.cropping import make_embedder
from extract.faces.crop_files import CropReader
from extract.faces.detection import TEMPLATE, Detection
from extract.faces.likeness import SIZE, Reference, read_reference, reference_key
from extract.faces.settings import CropConfig, FaceConfig
from tests.detectors import by_search, crop_one

RED, BLUE = (220, 40, 40), (40, 40, 220)
NUM = 30


def embed_colour(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 3) mean colour less grey: unlike colours are orthogonal or opposite."""
    means = faces.reshape(len(faces), -1, 3).mean(axis=1).astype(np.float32)
    return means - means.mean(axis=1, keepdims=True)


def find_colours(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face in every half of the picture that is coloured."""
    found = []
    for picture in pictures:
        height, width = picture.shape[0], picture.shape[1] // 2
        places = [at for at in (0, width) if np.ptp(picture[:, at : at + width].mean(axis=(0, 1))) > 40]
        boxes = np.array([[at, 0, at + width, height] for at in places], np.float32).reshape(-1, 4)
        corners = TEMPLATE.astype(np.float32) * (width / 112)
        marks = np.array([corners + np.array([at, 0]) for at in places], np.float32).reshape(-1, 5, 2)
        found.append(Detection(boxes, np.ones(len(places), np.float32), marks))
    return found


def draw(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Red on the left and blue on the right; red leaves at frame 10; after the empty frame 20 they have changed places."""
    picture = np.full((height, width, 3), 90, np.uint8)
    if index == 20:
        return picture
    halves = picture[:, : width // 2], picture[:, width // 2 :]
    halves[index < 20][:] = BLUE
    if not 10 <= index < 20:
        halves[index >= 20][:] = RED
    return picture


def save_picture(path: Path, *colours: tuple[int, int, int]) -> Path:
    row = np.concatenate([np.full((64, 64, 3), colour, np.uint8) for colour in colours], axis=1)
    Image.fromarray(row).save(path)
    return path


def reference(picture: Path, min_similarity: float = 0.5) -> Reference:
    return read_reference(picture, by_search(find_colours), FaceConfig(), embed_colour, min_similarity)


@pytest.fixture
def video(tmp_path: Path, media: SimpleNamespace) -> Path:
    return media.write_video(tmp_path / "v.mkv", NUM, codec="ffv1", pix_fmt="bgr0", size=(64, 128), draw=draw)


@pytest.mark.parametrize(
    ("colour", "frames"), [(RED, [*range(10), *range(21, NUM)]), (BLUE, [*range(20), *range(21, NUM)])]
)
def test_the_person_of_the_picture_is_followed(
    tmp_path: Path, video: Path, colour: tuple[int, int, int], frames: list[int]
) -> None:
    who = reference(save_picture(tmp_path / "who.png", colour, (90, 90, 90)))
    config, clock = CropConfig(faces=FaceConfig(every=1, max_gap=0)), FrameClock(25, NUM)  # type: ignore[arg-type]
    record = crop_one(video, clock, "reference", tmp_path / "c.zip", config, by_search(find_colours), who)
    reader = CropReader(tmp_path / "c.zip", clock)
    assert reader.frames.tolist() == frames
    colours = reader.read(reader.frames)[:, 20:90, 20:90].mean(axis=(1, 2))
    np.testing.assert_allclose(colours, [colour] * len(frames), atol=8)
    key = reference_key(who.path, config.reference_weights)
    assert record["settings"] == config.fingerprint(key) != config.fingerprint("largest")


def test_nobody_like_the_picture_is_an_error(tmp_path: Path, video: Path) -> None:
    who = reference(save_picture(tmp_path / "green.png", (20, 220, 20), (90, 90, 90)))
    clock = FrameClock(Fraction(25), NUM)
    with pytest.raises(
        MediaError, match=r"Nobody in trial 'P1' matches .*green\.png': the best similarity is -0\.\d\d"
    ):
        crop_one(video, clock, "reference", tmp_path / "c.zip", CropConfig(), by_search(find_colours), who)
    assert not (tmp_path / "c.zip").exists()


def test_the_embedding_is_that_of_the_aligned_face_of_norm_1(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(faces.shape)
        return 7 * embed_colour(faces)

    who = read_reference(
        save_picture(tmp_path / "a.png", BLUE, (90, 90, 90)), by_search(find_colours), FaceConfig(), embed, 0.5
    )
    assert seen == [(1, SIZE, SIZE, 3)]
    assert np.linalg.norm(who.embedding) == pytest.approx(1)
    assert who.embedding.argmax() == 2


def test_pictures_that_are_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No reference picture"):
        reference(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png' cannot be read"):
        reference(tmp_path / "text.png")
    with pytest.raises(MediaError, match=r"No face was found in .*grey\.png.* \(128x64 pixels\)"):
        reference(save_picture(tmp_path / "grey.png", (90, 90, 90), (90, 90, 90)))


def test_picture_and_weights_are_part_of_the_identity(tmp_path: Path) -> None:
    red, blue = save_picture(tmp_path / "r.png", RED), save_picture(tmp_path / "b.png", BLUE)
    (tmp_path / "w.pt").write_bytes(b"1")
    config = CropConfig()
    keys = {reference_key(red, "vggface2"), reference_key(blue, "vggface2"), reference_key(red, str(tmp_path / "w.pt"))}
    (tmp_path / "w.pt").write_bytes(b"2")
    keys.add(reference_key(red, str(tmp_path / "w.pt")))
    assert len({config.fingerprint(key) for key in keys}) == 4
    other = CropConfig(reference_weights="casia-webface", reference_similarity=0.6)
    assert other.fingerprint(reference_key(red, "vggface2")) != config.fingerprint(reference_key(red, "vggface2"))
    assert other.fingerprint("left") == config.fingerprint("left")


def test_facenet_embeds_the_faces() -> None:
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    rows = make_embedder("random")(faces)
    assert (rows.shape, rows.dtype) == ((2, 512), np.float32)
    np.testing.assert_allclose(rows, load_backbone("facenet", "random").embed(torch.from_numpy(faces)), atol=1e-6)
