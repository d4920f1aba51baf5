"""Pictures in any format as 8-bit RGB."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    Image.DecompressionBombError,
)
"""Errors that decoding a damaged picture may raise."""


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or any other format that Pillow reads.

    Args:
        data: bytes of the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UNREADABLE: one of these errors, if the picture is damaged.
    """
    if data[:2] == b"\xff\xd8" and simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(to_rgb(picture))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture to mode RGB; 16-bit grey keeps its higher eight bits, which Pillow would clip at 255."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64) >> 8
        picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return picture.convert("RGB")


def why_unreadable(error: Exception) -> str:
    """Message of a decoding error, without the memory addresses that Pillow includes."""
    return "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
