"""Images: aligned face crops, as RGB bytes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, SettingError, ShapeError, with_full_stop
from cache.names import encode_trial_id
from cache.settings import expected_one_of
from extract.faces.crop_files import CropReader, fit_picture
from extract.faces.following import FaceFollower
from extract.faces.settings import CropConfig
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import GIVEN, Input
from extract.media.live import LiveMedium
from extract.media.pictures import decode_picture

if TYPE_CHECKING:  # the report reads crops without torch, which takes seconds to import
    import torch
    from torch import Tensor

MISSING = ("skip", "black")

Mean = tuple[float, float, float]  # or standard deviation, per channel


@functools.lru_cache(maxsize=8)  # a copy to a GPU waits for everything running there, so not for every batch
def _scale_and_offset(mean: Mean, std: Mean, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and offset, (1, 3, 1, 1) each, that turn bytes into the range a network was trained on."""
    import torch

    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return scale, offset


@dataclass(frozen=True)
class ImageInput(Input):
    """What an image backbone reads.

    Attributes:
        size: height and width, pixels.
        mean: per channel in `colour` order, of values in [0, 1].
        std: likewise.
        colour: "rgb" or "bgr".
        crop_from: side to which crops are resized before the centre of `size` is cut out, 0 for `size` itself.
        resize: "bilinear" or "bicubic", as in Pillow: with antialiasing where pictures shrink.
        missing: what is done with frames without a face, in trials that have any: "skip" them, or read a "black" picture, which
            is valid input [Zhang2023's code].
    """

    name = "images"
    media = ("crops", "video")
    version = 1

    size: int
    mean: Mean
    std: Mean
    colour: str = "rgb"
    crop_from: int = 0
    resize: str = "bilinear"
    missing: str = "skip"

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise SettingError(
                with_full_stop(f"'missing' is '{self.missing}', {expected_one_of(self.missing, MISSING)}")
                + " Change it."
            )

    @property
    def read_size(self) -> int:
        """Side to which crops are resized, pixels."""
        return self.crop_from or self.size

    def uncut(self) -> ImageInput:
        """The same with all of the resized crops, for training that cuts out parts at random; itself if nothing is cut."""
        return replace(self, size=self.read_size, crop_from=0) if self.crop_from else self

    def cut(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the centre (N, size, size, 3) out of images (N, read_size, read_size, 3)."""
        margin = (self.read_size - self.size) // 2
        if margin == 0:
            return images
        inner = slice(margin, margin + self.size)
        return np.ascontiguousarray(images[:, inner, inner])

    def check(self, batch: Tensor) -> None:
        """Check that a batch is (B, size, size, 3) uint8, RGB in [0, 255].

        Raises:
            ShapeError: if shape or dtype differ.
        """
        import torch

        expected = (self.size, self.size, 3)
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != expected:
            raise ShapeError(
                f"Images are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.uint8 of shape (B, {self.size}, {self.size}, 3)."
            )

    def normalise(self, batch: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB → (B, 3, H, W) float32, channels-last in memory."""
        import torch

        images = batch.permute(0, 3, 1, 2)
        if self.colour == "bgr":
            images = images.flip(1)
        scale, offset = _scale_and_offset(self.mean, self.std, batch.device)
        return torch.addcmul(offset, images.to(torch.float32, memory_format=torch.channels_last), scale)

    def settings(self) -> dict[str, Any]:
        """What a backbone's settings say about its input, as JSON values."""
        return {
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "colour": self.colour,
            "timing": "the frame's own crop",
            **({} if self.missing == "skip" else {"missing": self.missing}),
        }

    def upstream(self, manifest: Manifest, crops: CropConfig) -> dict[str, Any]:
        """Settings of our crops, unless all trials come with their own."""
        ours = any("crops" not in trial.media and "video" in trial.media for trial in manifest.trials)
        return {"crops": crops.to_document() if ours else GIVEN}

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> CropSource:
        """The crops of a trial."""
        return CropSource(crops_path(manifest, trial, crops), trial, self)

    def follow(self, medium: LiveMedium, face: FaceFollower | None) -> CropFollower:
        """Follow the crops of a face.

        Raises:
            MissingFileError: if the medium has no pictures.
        """
        if face is None or not medium.has_pictures:
            raise MissingFileError(
                f"'{medium.path}' has no pictures, which the model reads. Give a video, or take a model of sound alone."
            )
        return CropFollower(face, self)

    def example(self, count: int, seed: int = 0) -> NDArray[np.uint8]:
        """(B, size, size, 3) patches of colour, because random networks see only the mean of plain noise."""
        coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        side = -(-self.size // 4)
        return np.ascontiguousarray(coarse.repeat(side, axis=1).repeat(side, axis=2)[:, : self.size, : self.size])


class CropSource:
    """Face crops of a trial, resized to the backbone's input."""

    def __init__(self, path: Path, trial: Trial, image: ImageInput) -> None:
        self._reader = CropReader(path, trial.clock)
        self._image = image

    def digest(self) -> str:
        """Digest of the crops by frame number."""
        return self._reader.digest()

    def load(self) -> Alignment:
        """One crop per frame that has one; black pictures for the others, if the input wants them."""
        valid = self._reader.valid
        return align_frames(valid | (valid.any() & (self._image.missing == "black")))

    def read(self, items: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(N, size, size, 3) uint8 RGB."""
        image, found = self._image, self._reader.valid[items]
        pictures = image.cut(self._reader.read(items[found], image.read_size, image.resize))
        if found.all():
            return pictures
        filled = np.zeros((len(items), *pictures.shape[1:]), np.uint8)
        filled[found] = pictures
        return filled


class CropFollower:
    """Face crops of a video that still grows, resized to the backbone's input."""

    def __init__(self, face: FaceFollower, image: ImageInput) -> None:
        self._face, self._image = face, image

    def ready(self) -> int:
        """Frames of which is known where the face is."""
        return self._face.ready

    def take(self, first: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(N, size, size, 3) uint8 RGB, and where there is a face."""
        image = self._image
        crops = [self._face.crop(frame) for frame in range(first, stop)]
        black = np.zeros((image.read_size, image.read_size, 3), np.uint8)
        pictures = [
            black if crop is None else fit_picture(decode_picture(crop), image.read_size, image.resize)
            for crop in crops
            if crop is not None or image.missing == "black"
        ]
        valid = np.array([crop is not None or image.missing == "black" for crop in crops], bool)
        return image.cut(np.stack(pictures) if pictures else black[None][:0]), valid


def crops_path(manifest: Manifest, trial: Trial, crops: Path | None) -> Path:
    """Path of the crops of a trial: the corpus's own, else our zip.

    Raises:
        MissingFileError: if there are none.
    """
    if "crops" in trial.media:
        return manifest.path(trial, "crops")
    path = None if crops is None else crops / f"{encode_trial_id(trial.id)}.zip"
    if path is None or not path.is_file():
        raise MissingFileError(
            f"Trial '{trial.id}' has no face crops{f' at {path}' if path else ''}. Run 'avfusion crops' first."
        )
    return path
