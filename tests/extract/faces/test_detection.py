"""Detection against facenet-pytorch's own, sampling, and alignment against the closed form."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import SettingError, ShapeError
from extract.faces.detection import TEMPLATE, Detection, align_face, make_detector, overlaps
from extract.faces.settings import FaceConfig
from extract.media.video import probe, read_frames


def real_frames(media: SimpleNamespace, name: str, every: int) -> list[NDArray[np.uint8]]:
    path = media.shared / name
    if not path.is_file():
        pytest.skip("no shared media here")
    info = probe(path)
    clock = FrameClock(info.rate, info.num_frames)
    return [frame for _, frame in read_frames(path, clock, "P1", max_side=640, wanted=lambda t: t % every == 0)]


@pytest.mark.parametrize("name", ["single_face.mp4", "people_1080p_aac.mp4"])
def test_batches_equal_mtcnn_frame_by_frame(media: SimpleNamespace, name: str) -> None:
    from facenet_pytorch import MTCNN

    frames = real_frames(media, name, 25)
    frames.insert(1, np.zeros_like(frames[0]))  # a picture without a face amid others
    config = FaceConfig(min_probability=0)
    found = make_detector(config).search(frames)
    reference = MTCNN(keep_all=True, min_face_size=config.min_face_size, thresholds=list(config.thresholds))
    for frame, mine in zip(frames, found, strict=True):
        boxes, probabilities, landmarks = reference.detect(frame, landmarks=True)
        if boxes is None:
            assert len(mine.boxes) == 0
            continue
        order = np.argsort(-np.prod(mine.boxes[:, 2:] - mine.boxes[:, :2], axis=1))  # as MTCNN sorts
        np.testing.assert_allclose(mine.boxes[order], boxes.astype(float), atol=2e-3)
        np.testing.assert_allclose(mine.landmarks[order], landmarks.astype(float), atol=2e-3)
        np.testing.assert_allclose(mine.probabilities[order], probabilities.astype(float), atol=1e-4)
    assert len(found[1].boxes) == 0
    assert len(found[0].boxes) > 0


def test_faces_are_measured_where_they_are_expected(media: SimpleNamespace) -> None:
    """Landmarks from boxes that are a little off lie as near to those of a search as a search's own of a shifted picture."""
    (frame, *_) = real_frames(media, "single_face.mp4", 100)
    detector = make_detector(FaceConfig())
    (known,) = detector.search([frame])
    side = float(np.ptp(known.boxes[0, ::2]))
    shifts = np.array([[0, 0, 0, 0], [5, -5, 5, -5], [-6, 4, 6, 8], [9999, 9999, 9999, 9999]], np.float32)
    empty, measured = detector.measure([frame, frame], [known.boxes[:0], known.boxes + shifts])
    assert len(empty.boxes) == 0
    assert (measured.probabilities[:3] > 0.9).all()
    assert measured.probabilities[3] == 0
    assert np.linalg.norm(measured.landmarks[:3] - known.landmarks[0], axis=2).max() < 0.08 * side
    assert np.abs(measured.boxes[:3] - known.boxes[0]).max() < 0.1 * side


@pytest.mark.parametrize("size", [(90, 120), (9, 12), (40, 300)])
def test_batches_without_any_face(size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), value, np.uint8) for value in (0, 127, 255)]
    for found in make_detector(FaceConfig()).search(frames):
        assert found.boxes.shape == (0, 4)
        assert found.probabilities.shape == (0,)
        assert found.landmarks.shape == (0, 5, 2)


def test_scaled_detections_keep_pixel_centres() -> None:
    detection = Detection(
        np.array([[0, 1, 2, 3]], np.float32), np.ones(1, np.float32), np.full((1, 5, 2), 10, np.float32)
    )
    scaled = detection.scaled((3.0, 2.0))
    assert scaled.boxes.tolist() == [[1, 2.5, 7, 6.5]]
    assert scaled.landmarks[0, 0].tolist() == [31, 20.5]


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]], np.float32)
    np.testing.assert_allclose(overlaps(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"min_face_size": 8}, {"max_gap": -1}, {"min_overlap": 1.5}, {"thresholds": (0.6, 0.7)}]
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="expected"):
        FaceConfig(**wrong)  # type: ignore[arg-type]


def umeyama(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) similarity of least squares by the singular value decomposition [Umeyama1991]."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    left, values, right = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ sign @ right
    scale = (values * np.diag(sign)).sum() / ((source - source_mean) ** 2).sum(1).mean()
    return np.column_stack((scale * rotation, target_mean - scale * rotation @ source_mean))


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack((columns * 255 / width, rows * 255 / height, (rows + columns) * 128 / width), 2).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.9, 2.0, 3.6, 7.0])
@pytest.mark.parametrize("turn", [0.0, 0.4, -1.2])
def test_alignment_follows_umeyama(factor: float, turn: float) -> None:
    """In a smooth picture every aligned pixel shows the colour of the place it comes from."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * factor
    side = int(200 * factor)
    noise = np.random.default_rng(1).normal(0, factor, (5, 2))
    landmarks = (TEMPLATE - 56) @ rotation.T + side / 2 + noise
    aligned = align_face(gradient(side, side), landmarks.astype(np.float32)).astype(float)
    back = np.linalg.inv(np.vstack((umeyama(landmarks, TEMPLATE), [0, 0, 1])))
    rows, columns = np.mgrid[:112, :112]
    places = (back @ np.stack((columns.ravel(), rows.ravel(), np.ones(112 * 112))))[:2].reshape(2, 112, 112)
    inside = ((places > 2 * factor) & (places < side - 1 - 2 * factor)).all(axis=0)
    for channel in (0, 1):
        error = aligned[..., channel] - np.floor(places[channel] * 255 / side)
        assert np.abs(error[inside]).max() < 2.5
        # Sampling rounds down, by half a level on average; half a pixel would be 0.64 levels.
        assert -0.6 < error[inside].mean() < 0.1


def test_aligned_landmarks_land_on_the_template() -> None:
    frame = np.zeros((500, 500, 3), np.uint8)
    landmarks = TEMPLATE * 2.5 + 60
    for x, y in landmarks:
        frame[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] = 255
    for size in (112, 160):
        aligned = align_face(frame, landmarks.astype(np.float32), size).astype(float).sum(2)
        rows, columns = np.mgrid[:size, :size]
        for x, y in (TEMPLATE + 0.5) * size / 112 - 0.5:
            near = aligned * (np.hypot(columns - x, rows - y) < 6)
            assert (near * columns).sum() / near.sum() == pytest.approx(x, abs=0.35)
            assert (near * rows).sum() / near.sum() == pytest.approx(y, abs=0.35)


def test_alignment_of_an_identity_returns_the_picture() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_allclose(align_face(frame, TEMPLATE.astype(np.float32)).astype(int), frame, atol=1)


def test_shrinking_averages_instead_of_skipping() -> None:
    checks = (np.indices((1120, 1120)).sum(0) % 2 * 255).astype(np.uint8)
    aligned = align_face(np.repeat(checks[..., None], 3, axis=2), (TEMPLATE * 8).astype(np.float32))
    assert np.abs(aligned[5:-5, 5:-5].astype(int) - 127).max() <= 2


def test_faces_over_the_border_are_black_there() -> None:
    frame = np.full((200, 200, 3), 255, np.uint8)
    aligned = align_face(frame, (TEMPLATE - 56).astype(np.float32))
    assert aligned[:50, :50].max() == 0
    assert aligned[60:, 60:].min() == 255
    assert align_face(frame, (TEMPLATE + 5000).astype(np.float32)).max() == 0


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.full((5, 2), np.nan)])
def test_landmarks_without_a_face(landmarks: NDArray[np.float64]) -> None:
    with pytest.raises(ShapeError, match="do not span a face"):
        align_face(np.zeros((20, 20, 3), np.uint8), landmarks.astype(np.float32))
