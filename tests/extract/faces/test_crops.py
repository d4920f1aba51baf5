"""Crops on disk: numbers, digests, whole zips only, and damage named."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.errors import MediaError, MissingFileError, SettingError, ShapeError
from cache.foreign import sha256_file
from extract.faces import finding
from extract.faces.crop_files import CropReader, crop_numbers, crops_are_current
from extract.faces.crop_records import read_crop_record
from extract.faces.detection import TEMPLATE, Detection, make_detector
from extract.faces.search import find_faces
from extract.faces.settings import CropConfig, FaceConfig
from extract.media.video import probe
from tests.detectors import by_search, crop_one

CONFIG = CropConfig(faces=FaceConfig(every=4))
CLOCK = FrameClock(Fraction(25), 40)


def find_grey(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face that fills the picture unless its left edge is black."""
    found = []
    for picture in pictures:
        height, width = picture.shape[:2]
        number = int(picture[:, : width // 16].mean() > 20)
        landmarks = np.tile(TEMPLATE.astype(np.float32) * (width / 128), (number, 1, 1))
        box = np.array([[0, 0, width, height]], np.float32)
        found.append(Detection(np.tile(box, (number, 1)), np.ones(number, np.float32), landmarks))
    return found


def draw_grey(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Grey whose level tells the frame; the left edge of frames 10 to 24 is black, which is no cut."""
    return edged(np.full((height, width, 3), 50 + 4 * index, np.uint8), 10 <= index < 25)


def edged(picture: NDArray[np.uint8], is_hidden: bool) -> NDArray[np.uint8]:
    """A picture with a black left edge if it is hidden."""
    picture[:, : picture.shape[1] // 16 if is_hidden else 0] = 0
    return picture


def draw_by_quarter(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Grey for a quarter of an hour, lighter, hidden, lighter still; one picture per second."""
    return edged(np.full((height, width, 3), 60 + 12 * (index // 900), np.uint8), index // 900 == 2)


@pytest.fixture
def video(tmp_path: Path, media: SimpleNamespace) -> Path:
    return media.write_video(tmp_path / "v.mkv", 40, codec="ffv1", pix_fmt="gray", size=(128, 128), draw=draw_grey)


def make(video: Path, path: Path) -> dict[str, object]:
    return crop_one(video, CLOCK, "largest", path, CONFIG, by_search(find_grey))


def jpeg(level: int = 100, size: int = 16) -> bytes:
    return simplejpeg.encode_jpeg(np.full((size, size, 3), level, np.uint8))


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        (folder / name).write_bytes(jpeg(level * 10))
    return folder


def test_crops_stand_at_their_frames(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "c.zip"
    record = make(video, path)
    present = np.array([*range(10), *range(25, 40)])
    reader = CropReader(path, CLOCK)
    np.testing.assert_array_equal(reader.frames, present)
    np.testing.assert_array_equal(np.flatnonzero(reader.valid), present)
    assert reader.valid.shape == (40,)
    assert reader.size == (112, 112)
    assert record["present"] == 25
    pictures = reader.read(present[::-1])
    assert (pictures.shape, pictures.dtype) == ((25, 112, 112, 3), np.uint8)
    assert np.abs(pictures[:, 56, 56, 0].astype(int) - (50 + 4 * present[::-1])).max() <= 2
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{frame + 1:05d}.jpg" for frame in present]
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert simplejpeg.decode_jpeg_header(zipfile.ZipFile(path).read("00001.jpg"))[3] == "444"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.zip", "v.mkv"]


def test_the_record_says_what_the_crops_were_made_of(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "c.zip"
    record = make(video, path)
    assert read_crop_record(path) == record == json.loads(zipfile.ZipFile(path).comment)
    assert record["source"] == sha256_file(video)
    assert (record["num_frames"], record["rate"], record["version"]) == (40, "25", 2)
    settings = CONFIG.fingerprint("largest")
    assert crops_are_current(path, sha256_file(video), settings, CLOCK)
    assert not crops_are_current(path, "0" * 64, settings, CLOCK)
    assert not crops_are_current(path, sha256_file(video), CONFIG.fingerprint("left"), CLOCK)
    assert not crops_are_current(path, sha256_file(video), settings, FrameClock(Fraction(25), 39))
    assert not crops_are_current(tmp_path / "none.zip", sha256_file(video), settings, CLOCK)


def test_bytes_do_not_depend_on_time_or_batches(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(video, tmp_path / "a.zip")
    monkeypatch.setattr(finding, "find_faces", partial(find_faces, batch_size=3))
    make(video, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_full_disk_leaves_nothing(tmp_path: Path, video: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(video, tmp_path / "c.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.mkv"]


def test_fingerprint_holds_every_setting() -> None:
    others = [
        CropConfig(size=160),
        CropConfig(quality=90),
        *(CropConfig(faces=FaceConfig(**{name: 7})) for name in ("every", "max_gap")),
        CropConfig(faces=FaceConfig(max_side=320)),
        CropConfig(faces=FaceConfig(min_overlap=0.5)),
    ]
    prints = {config.fingerprint("left") for config in [CropConfig(), *others]}
    assert len(prints) == len(others) + 1
    assert CropConfig().fingerprint("left") == CropConfig().fingerprint("left") != CropConfig().fingerprint("right")
    with pytest.raises(SettingError, match="'quality' is 0"):
        CropConfig(quality=0)


def test_zip_and_folder_of_the_same_files_have_one_digest(tmp_path: Path, video: Path) -> None:
    path, folder, bare = tmp_path / "c.zip", tmp_path / "folder", tmp_path / "bare.zip"
    make(video, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(bare, "w", zipfile.ZIP_DEFLATED) as copy:
        archive.extractall(folder)
        for name in reversed(archive.namelist()):
            copy.writestr(f"P1/{name}", archive.read(name))
    readers = [CropReader(each, CLOCK) for each in (path, folder, bare)]
    assert len({reader.digest() for reader in readers}) == 1
    frames = readers[0].frames
    for reader in readers[1:]:
        np.testing.assert_array_equal(reader.read(frames), readers[0].read(frames))
    (folder / "00001.jpg").write_bytes(jpeg())
    assert CropReader(folder, CLOCK).digest() != readers[0].digest()


def test_a_trial_without_a_face_is_whole_all_the_same(tmp_path: Path, media: SimpleNamespace) -> None:
    video = media.write_video(tmp_path / "v.mp4", 40, draw=lambda index, h, w: np.zeros((h, w, 3), np.uint8))
    assert make(video, tmp_path / "c.zip")["present"] == 0
    reader = CropReader(tmp_path / "c.zip", CLOCK)
    assert not reader.valid.any()
    assert reader.read(reader.frames, size=112).shape == (0, 112, 112, 3)


def test_a_failed_write_leaves_nothing(tmp_path: Path, media: SimpleNamespace) -> None:
    video = media.write_video(tmp_path / "v.mp4", 30)
    with pytest.raises(ShapeError, match="has 40 frames at .* which is 30 of them"):
        make(video, tmp_path / "c.zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.mp4"]


KILLED = """
import os, signal, sys
from fractions import Fraction
from pathlib import Path
import extract.faces.crops as crops
from cache.clock import FrameClock
from extract.faces.finding import VideoFaces
from extract.faces.tracking import Track
def some(*arguments):
    for frame in range(30):
        if frame == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame, [(0, bytes(20000))]
crops._cut = some
faces = VideoFaces(Path("v"), FrameClock(Fraction(25), 40), None, None, "P1")
crops.write_crops(faces, [crops.Wanted(Track((), 40), Path(sys.argv[1]), "settings")], "source", crops.CropConfig())
"""


@pytest.mark.parametrize("moment", [0, 20])
def test_a_killed_write_leaves_no_zip(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "c.zip"
    command = [sys.executable, "-c", KILLED, str(path), str(moment)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    for left in tmp_path.iterdir():
        assert left.name.startswith("."), "what is left hides"
        assert read_crop_record(left) is None


def test_cut_zips_have_no_record(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "c.zip"
    make(video, path)
    whole = path.read_bytes()
    for size in [0, 10, len(whole) // 2, *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:size])
        assert read_crop_record(path) is None
        with pytest.raises(MediaError):
            CropReader(path, CLOCK)
    path.write_bytes(whole + b"more")
    assert read_crop_record(path) is None


@pytest.mark.parametrize("comment", [b"", b"[]", b'{"version": 2}', b'{"version": 1, "present": "all"}', b"\xff{"])
def test_foreign_zips_have_no_record(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("00002.jpg", jpeg())
        archive.comment = comment
    assert read_crop_record(path) is None
    assert CropReader(path, CLOCK).frames.tolist() == [1]


def test_numbers_not_positions(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "f", "00003.jpg", "7.JPG", "00012.jpeg", "cover.jpg", ".00005.jpg", "00006.txt", "a00009.jpg"
    )
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(folder / "00040.png")
    (folder / "00020.jpg").mkdir()
    reader = CropReader(folder, CLOCK)
    assert reader.frames.tolist() == [2, 6, 11, 39]
    assert reader.read(np.array([39, 2]))[:, 8, 8].tolist() == [[77] * 3, [0] * 3]
    with pytest.raises(MissingFileError, match="no crop of frame 3"):
        reader.read(np.array([3]))


def test_numbers_that_contradict_the_clock(tmp_path: Path) -> None:
    assert CropReader(fill(tmp_path / "a", "00001.jpg", "00042.jpg"), CLOCK).frames.tolist() == [0]
    with pytest.raises(ShapeError, match="Trial 'P7' has 40 labels but 43 numbered crops"):
        CropReader(fill(tmp_path / "b", "00001.jpg", "00043.jpg"), CLOCK, "P7")
    with pytest.raises(ShapeError, match="same number"):
        CropReader(fill(tmp_path / "c", "00001.jpg", "1.jpg"), CLOCK)
    with pytest.raises(ShapeError, match="number 0, expected numbers from 1"):
        CropReader(fill(tmp_path / "d", "00000.jpg"), CLOCK)


def test_every_wrong_number_is_named(tmp_path: Path) -> None:
    names = ["00000.jpg", "00001.jpg", "1.jpg", "2.png", "02.png", "9" * 20 + ".jpg"]
    with pytest.raises(ShapeError) as caught:
        CropReader(fill(tmp_path / "a", *names), CLOCK)
    for part in ("'00000.jpg' has number 0", "'00001.jpg' and '1.jpg'", "'02.png' and '2.png'", "beyond the end"):
        assert part in str(caught.value)
    with pytest.raises(ShapeError, match="'00001.jpg' and '1.jpg' have the same number.*; and 3 more"):
        crop_numbers(
            tmp_path / "x.zip",
            ["00001.jpg", *(f"{'0' * zeros}1.jpg" for zeros in range(8) if zeros != 4), "9" * 5000 + ".jpg"],
        )


def test_crops_of_another_clock_are_refused(tmp_path: Path, video: Path) -> None:
    make(video, tmp_path / "c.zip")
    for clock in (FrameClock(Fraction(25), 41), FrameClock(Fraction(30), 40)):
        with pytest.raises(ShapeError, match="made for 40 frames at 25 Hz"):
            CropReader(tmp_path / "c.zip", clock)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No crops at"):
        CropReader(tmp_path / "none", CLOCK)
    with pytest.raises(MediaError, match="holds no crops"):
        CropReader(fill(tmp_path / "f", "notes.txt"), CLOCK)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(MediaError, match="not a complete zip"):
        CropReader(tmp_path / "text.zip", CLOCK)


def test_damage_is_named(tmp_path: Path, video: Path) -> None:
    folder = fill(tmp_path / "f", "00001.jpg", "00002.jpg", "00003.jpg", "00004.png")
    (folder / "00002.jpg").write_bytes(jpeg(size=64)[:300])
    (folder / "00003.jpg").write_bytes(b"")
    reader = CropReader(folder, CLOCK)
    for frame in (1, 2):
        with pytest.raises(MediaError, match=rf"Crop '0000{frame + 1}.jpg' of '.*' is damaged .*Run 'avfusion crops'"):
            reader.read(np.array([frame]))
    assert reader.read(np.array([0, 3])).shape == (2, 16, 16, 3), "a JPEG under a name for a PNG"
    path = tmp_path / "c.zip"
    make(video, path)
    data = bytearray(path.read_bytes())
    data[300] ^= 255
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"Crop '00001.jpg' of '.*' is damaged \(its checksum differs\)"):
        CropReader(path, CLOCK).read(np.array([0]))


def test_sizes(tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", "00001.jpg")
    (folder / "00002.jpg").write_bytes(jpeg(200, 32))
    reader = CropReader(folder, CLOCK)
    assert reader.size == (16, 16)
    assert reader.read(np.array([0, 1]), size=24).shape == (2, 24, 24, 3)
    with pytest.raises(ShapeError, match="'00002.jpg' of .* is 32x32 pixels, the first one 16x16"):
        reader.read(np.array([0, 1]))


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_shrunk_crops_do_not_alias(tmp_path: Path, resize: str) -> None:
    """A fine chequerboard becomes grey; taking pixels or pairs of them would leave stripes."""
    board = (np.indices((112, 112)).sum(axis=0) % 2 * 255).astype(np.uint8)
    (tmp_path / "f").mkdir()
    Image.fromarray(np.stack([board] * 3, axis=2)).save(tmp_path / "f/00001.png")
    small = CropReader(tmp_path / "f", CLOCK).read(np.array([0]), 40, resize)
    assert np.abs(small[:, 2:-2, 2:-2].astype(int) - 128).max() < 12


def test_many_threads_read_one_zip(tmp_path: Path, video: Path) -> None:
    make(video, tmp_path / "c.zip")
    reader = CropReader(tmp_path / "c.zip", CLOCK)
    expected = reader.read(reader.frames)
    orders = [np.random.default_rng(seed).permutation(len(reader.frames)) for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for order, read in zip(orders, pool.map(lambda o: reader.read(reader.frames[o]), orders), strict=True):
            np.testing.assert_array_equal(read, expected[order])


def test_memory_does_not_grow_with_the_video(tmp_path: Path, media: SimpleNamespace) -> None:
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("resident memory is read as Linux shows it")

    def resident_mb() -> int:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    clock = FrameClock(Fraction(25), 3000)
    video = media.write_video(
        tmp_path / "v.mp4",
        3000,
        size=(128, 128),
        draw=lambda index, h, w: np.full((h, w, 3), 60 + abs(index % 198 - 99), np.uint8),
    )
    before = resident_mb()
    record = crop_one(video, clock, "left", tmp_path / "c.zip", CONFIG, by_search(find_grey))
    assert record["present"] == 3000
    assert resident_mb() - before < 40, "3000 pictures are 147 MB"


def test_crops_of_an_hour(tmp_path: Path, media: SimpleNamespace) -> None:
    clock = FrameClock(Fraction(1), 3600)
    video = media.write_video(tmp_path / "hour.mp4", 3600, 1, size=(120, 160), draw=draw_by_quarter)
    record = crop_one(video, clock, "largest", tmp_path / "c.zip", CONFIG, by_search(find_grey))
    reader = CropReader(tmp_path / "c.zip", clock)
    assert (record["present"], len(reader.frames)) == (2700, 2700)
    assert np.flatnonzero(~reader.valid).tolist() == list(range(1800, 2700))
    assert reader.frames[-1] == 3599


def test_a_real_face(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.shared / "single_face.mp4"
    if not path.is_file():
        pytest.skip("no shared media here")
    info = probe(path)
    clock = FrameClock(info.rate, info.num_frames)
    record = crop_one(path, clock, "largest", tmp_path / "c.zip", CropConfig(), make_detector(FaceConfig()))
    assert record["present"] == info.num_frames
    reader = CropReader(tmp_path / "c.zip", clock)
    faces = reader.read(reader.frames[::10]).astype(float)
    cheeks, background = faces[:, 70:80, 35:45], faces[:, :10, :10]
    assert (cheeks[..., 0].mean() - cheeks[..., 2].mean()) > 15, "skin is red before it is blue"
    assert np.abs(np.diff(faces.mean(axis=(1, 2, 3)))).max() < 15, "the face stays in its place"
    assert background.size


def test_grey_of_sixteen_bits_keeps_its_ramp(tmp_path: Path) -> None:
    """As infrared and depth cameras write it; Pillow alone clips it to white."""
    ramp = np.tile(np.linspace(0, 65535, 112).astype(np.uint16), (112, 1))
    Image.fromarray(ramp).save(tmp_path / "00001.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "00002.png")
    pictures = CropReader(tmp_path, FrameClock(Fraction(25), 2)).read(np.arange(2), 112)
    for picture in pictures:
        np.testing.assert_array_equal(picture, np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_crops_of_any_kind_of_picture(tmp_path: Path) -> None:
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    modes = ("L", "RGB", "RGBA", "LA", "P", "CMYK")
    for number, mode in enumerate(modes, start=1):
        name = f"{number:05d}.{'jpg' if mode == 'CMYK' else 'png'}"
        picture = Image.fromarray(grey)
        (picture if mode == "P" else picture.convert("RGB")).convert(mode).save(tmp_path / name, quality=100)
    pictures = CropReader(tmp_path, FrameClock(Fraction(25), len(modes))).read(np.arange(len(modes)))
    for mode, picture in zip(modes, pictures, strict=True):
        assert np.abs(picture.astype(int) - grey[:, :, None]).mean() < 4, mode


def test_crops_of_varying_pictures_belong_to_their_times(tmp_path: Path, media: SimpleNamespace) -> None:
    times = [Fraction(index, 10 if index < 20 else 25) + (Fraction(6, 5) if index >= 20 else 0) for index in range(40)]
    video = media.write_video(
        tmp_path / "v.mkv", 40, times=times, codec="ffv1", pix_fmt="gray", size=(128, 128), draw=draw_grey
    )
    clock = probe(video).clock
    assert clock.times is not None
    record = crop_one(video, clock, "largest", tmp_path / "v.zip", CONFIG, by_search(find_grey))
    assert read_crop_record(tmp_path / "v.zip") == record
    reader = CropReader(tmp_path / "v.zip", clock)
    assert reader.frames.tolist() == [*range(10), *range(25, 40)]
    levels = reader.read(reader.frames)[:, 56, 56, 0].astype(int)
    np.testing.assert_allclose(levels, 50 + 4 * reader.frames, atol=2)
    fingerprint = CONFIG.fingerprint("largest")
    assert crops_are_current(tmp_path / "v.zip", sha256_file(video), fingerprint, clock)
    for other in (FrameClock(clock.rate, 40), clock.resized(39)):
        assert not crops_are_current(tmp_path / "v.zip", sha256_file(video), fingerprint, other)
        with pytest.raises(ShapeError, match=r"were made for 40 frames at .* Hz at other times; expected"):
            CropReader(tmp_path / "v.zip", other)


def test_crops_of_the_longest_name(tmp_path: Path, video: Path) -> None:
    path = tmp_path / f"{'x' * 240}.zip"
    crop_one(video, CLOCK, "largest", path, CONFIG, by_search(find_grey))
    assert crops_are_current(path, sha256_file(video), CONFIG.fingerprint("largest"), CLOCK)


def zip_of(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("00001.png", data)


def test_a_zip_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    """Sizes are compared with the file before anything is set aside for them."""
    path = tmp_path / "bomb.zip"
    zip_of(path, bytes(300_000_000))
    with pytest.raises(MediaError, match="it asks for 300000000 bytes"):
        CropReader(path, CLOCK).read(np.array([0]))
    zip_of(path, b"x" * 1000, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    start = whole.rindex(b"PK\x01\x02")
    for field, size in ((20, 4), (24, 4), (42, 4)):  # sizes and the place in the directory
        content = bytearray(whole)
        content[start + field : start + field + size] = b"\xfe\xff\xff\x0f"
        path.write_bytes(content)
        with pytest.raises(MediaError, match=r"asks for|is cut off|not a complete zip"):
            CropReader(path, CLOCK).read(np.array([0]))


def test_a_renamed_member_is_refused(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "c.zip"
    make(video, path)
    whole = path.read_bytes()
    place = whole.rindex(b"PK\x01\x02") + 46
    free = next(frame for frame in range(40) if not CropReader(path, CLOCK).valid[frame])
    path.write_bytes(whole[:place] + f"{free + 1:05d}".encode() + whole[place + 5 :])
    with pytest.raises(MediaError, match=r"its header belongs to another one.*Run 'avfusion crops'"):
        CropReader(path, CLOCK).read(np.array([free]))
    path.write_bytes(whole[:place] + b"0000x" + whole[place + 5 :])
    with pytest.raises(MediaError, match="holds 24 crops, its record says 25"):
        CropReader(path, CLOCK)
