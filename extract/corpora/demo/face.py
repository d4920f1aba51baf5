"""Faces of the demo corpus, drawn with numpy: shaded skin, hair, eyes, brows, nose and mouth that follow an expression.

Everything is a soft-edged region in face coordinates: u to the right, v down, the face about 2 units wide and 2.8
high, the origin between the eyes and the tip of the nose. One pixel of softness at each edge is the anti-aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

Image = NDArray[Any]  # float32; (3, H, W) in [0, 255], or (H, W) of anything
Colour = NDArray[np.float32]  # (3, 1, 1) in [0, 255]

EYE_U, EYE_V = 0.41, -0.14
NOSE_V = 0.30
MOUTH_V = 0.80
BROW_V = -0.46

_SKINS = ((244, 208, 182), (232, 188, 158), (222, 172, 138), (204, 152, 116), (178, 126, 92), (236, 198, 176))
_HAIRS = ((44, 30, 24), (84, 54, 32), (26, 24, 28), (140, 98, 54), (112, 62, 38), (168, 150, 122))
_IRISES = ((74, 50, 30), (58, 92, 128), (70, 104, 66), (50, 38, 30))
_CLOTHES = ((60, 84, 130), (130, 58, 60), (70, 110, 84), (96, 90, 104), (190, 180, 160), (40, 44, 60))


@dataclass(frozen=True)
class Look:
    """A person's fixed features: colours in [0, 255], lengths in face units."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    clothes: Colour
    width: float
    chin: float
    eye_size: float
    brow_thickness: float
    mouth_width: float
    nose_width: float
    hairline: float
    long_hair: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Look:
        """A person drawn from the generator."""
        skin = _pick(_SKINS, rng)
        red = _colour(0.86, 0.56, 0.54) + rng.uniform(-0.03, 0.03, (3, 1, 1)).astype(np.float32)
        return cls(
            skin=skin,
            hair=_pick(_HAIRS, rng),
            iris=_pick(_IRISES, rng),
            lips=skin * red,
            clothes=_pick(_CLOTHES, rng),
            width=rng.uniform(0.96, 1.06),
            chin=rng.uniform(0.10, 0.24),
            eye_size=rng.uniform(0.95, 1.1),
            brow_thickness=rng.uniform(0.050, 0.072),
            mouth_width=rng.uniform(0.36, 0.42),
            nose_width=rng.uniform(0.9, 1.15),
            hairline=rng.uniform(-0.98, -0.84),
            long_hair=bool(rng.random() < 0.5),
        )


@dataclass(frozen=True)
class Expression:
    """The expression of a face in one frame.

    Attributes:
        smile: -1 (corners of the mouth far down) … 1 (broad smile); brows lower and knit where negative.
        opening: mouth, 0 closed … 1 wide open.
        eyes: eye opening, 0 shut … 1 wide.
        brows: -1 lowered … 1 raised.
    """

    smile: float
    opening: float
    eyes: float
    brows: float


@dataclass(frozen=True)
class Pose:
    """Where a head is: centre in pixels, `scale` pixels per face unit, roll in radians, yaw in [-1, 1]."""

    x: float
    y: float
    scale: float
    roll: float = 0.0
    yaw: float = 0.0

    def to_pixels(self, u: float, v: float) -> tuple[float, float]:
        """Pixel (x, y) of a point of the face."""
        turned = u
        for _ in range(8):
            turned = u - _turn(turned, self.yaw)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return self.x + self.scale * (cos * turned - sin * v), self.y + self.scale * (sin * turned + cos * v)


@dataclass(frozen=True)
class Light:
    """Where light comes from (`u`, `v`, towards the source) and how strong it is, about 1."""

    u: float = -0.3
    v: float = -0.4
    strength: float = 1.0


@dataclass(frozen=True)
class _Patch:
    """A rectangle of the picture with the face coordinates of its pixels; painting modifies the picture."""

    pixels: Image
    u: Image
    v: Image
    pose: Pose
    left: int = 0
    top: int = 0

    def near(self, u: float, v: float, radius: float) -> _Patch:
        """The square part of this patch about a point of the face."""
        x, y = self.pose.to_pixels(u, v)
        reach = radius * self.pose.scale + 2
        left = max(0, int(x - reach) - self.left)
        top = max(0, int(y - reach) - self.top)
        part = np.s_[top : max(0, int(y + reach) + 2 - self.top), left : max(0, int(x + reach) + 2 - self.left)]
        return _Patch(self.pixels[:, *part], self.u[part], self.v[part], self.pose, self.left + left, self.top + top)

    def cover(self, outside: Image) -> Image:
        """Share of each pixel that is inside, given the distance to the edge in face units, negative inside."""
        return np.clip(0.5 - outside * np.float32(self.pose.scale), 0.0, 1.0)

    def paint(self, cover: Image, colour: Image | Colour) -> None:
        pixels = self.pixels  # a view of the picture
        pixels += cover * (colour - pixels)

    def shade(self, factor: Image) -> None:
        pixels = self.pixels
        pixels *= factor


def make_background(rng: np.random.Generator, height: int, width: int) -> Image:
    """(3, H, W) textured wall: two scales of smooth noise over a sloping colour."""
    base = rng.uniform(90, 170, (3, 1, 1))
    tint = rng.uniform(-14, 14, (3, 1, 1))
    coarse = zoom(rng.standard_normal((6, 8)), (height / 6, width / 8), order=3)
    fine = zoom(rng.standard_normal((height // 6, width // 6)), (height / (height // 6), width / (width // 6)), order=1)
    slope = np.linspace(12, -18, height)[:, None]
    picture = base + slope + coarse * (10 + tint) + fine * 6
    return np.clip(picture, 20, 235).astype(np.float32)


def paint_person(
    picture: Image, look: Look, pose: Pose, expression: Expression, light: Light, away: bool = False
) -> None:
    """Paint head and shoulders into a picture, in place.

    Args:
        picture: (3, H, W) float32 in [0, 255].
        look: the person.
        pose: where the head is.
        expression: what the face does.
        light: how the face is lit.
        away: show the back of the head instead of the face.
    """
    whole = _patch_around(picture, pose)
    _paint_body(whole, look)
    patch = whole.near(0.0, 0.0, 1.85)
    _paint_back_hair(patch, look)
    skull = _skull(patch.u, patch.v, look)
    if away:
        strands = 1.0 + 0.10 * np.sin(17 * patch.u + 2 * np.sin(5 * patch.v))
        patch.paint(patch.cover(skull - 0.03), look.hair * strands)
        return
    face = patch.cover(skull)
    patch.paint(face, look.skin * _shading(patch, look, light))
    turned = replace(patch, u=patch.u + _turn(patch.u, pose.yaw))
    _paint_nose(turned, look)
    _paint_folds(turned, expression)
    for side in (-1, 1):
        _paint_eye(turned, look, expression, side)
        _paint_brow(turned, look, expression, side)
    _paint_mouth(turned, look, expression)
    _paint_fringe(turned, look)


def paint_hand(picture: Image, look: Look, pose: Pose) -> None:
    """Paint a big hand in front of the face, in place, which hides eyes, nose and mouth completely."""
    patch = _patch_around(picture, pose)
    u, v = patch.u, patch.v
    palm = np.hypot(u / 1.12, (v - 0.35) / 1.0) - 1.0
    shape = np.minimum(palm, np.maximum(np.abs(u) - 0.62, 0.6 - v))
    for index, (finger, tip) in enumerate(((-0.84, -0.95), (-0.28, -1.3), (0.28, -1.35), (0.84, -1.05))):
        lean = finger + 0.10 * (index - 1.5) * (0.2 - v)
        shape = np.minimum(shape, np.maximum(np.abs(u - lean) - 0.29, np.maximum(tip - v, v - 0.5)))
    light = 0.92 - 0.10 * u + 0.04 * np.cos(11.5 * u) * (v < 0.2)
    patch.paint(patch.cover(shape), look.skin * light)


def find_landmarks(look: Look, pose: Pose, expression: Expression) -> list[tuple[float, float]]:
    """Pixels (x, y) of both eyes, the nose and both corners of the mouth, left in the picture first."""
    corner = _mouth_half_width(look, expression)
    corner_v = MOUTH_V - 0.19 * expression.smile * 0.6
    points = ((-EYE_U, EYE_V), (EYE_U, EYE_V), (0.0, NOSE_V), (-corner, corner_v), (corner, corner_v))
    return [pose.to_pixels(u, v) for u, v in points]


def _colour(*channels: float) -> Colour:
    return np.array(channels, np.float32).reshape(3, 1, 1)


def _pick(colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> Colour:
    return _colour(*colours[rng.integers(len(colours))]) * np.float32(rng.uniform(0.95, 1.05))


def _turn(u: Any, yaw: float) -> Any:
    """How far features at u move relative to the outline of the head."""
    return -0.26 * yaw * np.maximum(0.0, 1.0 - u * u)


def _patch_around(picture: Image, pose: Pose) -> _Patch:
    height, width = picture.shape[1:]
    left = max(0, int(pose.x - 2.3 * pose.scale))
    right = min(width, int(pose.x + 2.3 * pose.scale))
    top = max(0, int(pose.y - 2.0 * pose.scale))
    x = (np.arange(left, right, dtype=np.float32) - np.float32(pose.x)) / np.float32(pose.scale)
    y = (np.arange(top, height, dtype=np.float32)[:, None] - np.float32(pose.y)) / np.float32(pose.scale)
    cos = np.float32(np.cos(pose.roll))
    sin = np.float32(np.sin(pose.roll))
    return _Patch(picture[:, top:, left:right], cos * x + sin * y, cos * y - sin * x, pose, left, top)


def _gauss(u: Image, v: Image, width: float, height: float) -> Image:
    return np.exp(-((u / np.float32(width)) ** 2) - (v / np.float32(height)) ** 2)


def _skull(u: Image, v: Image, look: Look) -> Image:
    narrowing = 1.0 - look.chin * np.clip(v, 0.0, 1.5) ** 2
    return np.hypot(u / (look.width * np.maximum(0.3, narrowing)), v / 1.42) - 1.0


def _shading(patch: _Patch, look: Look, light: Light) -> Image:
    """Lambert's law on an ellipsoid with softer shadows for sockets and cheeks."""
    nx = patch.u / np.float32(1.12 * look.width)
    ny = patch.v / np.float32(1.55)
    nz = np.sqrt(np.maximum(0.02, 1.0 - nx * nx - ny * ny))
    lit = np.maximum(0.0, (light.u * nx + light.v * ny + nz) / np.float32(np.hypot(np.hypot(light.u, light.v), 1.0)))
    return np.float32(light.strength) * (0.42 + 0.62 * lit)


def _paint_body(whole: _Patch, look: Look) -> None:
    lower = max(0, int(whole.pose.y + 0.2 * whole.pose.scale) - whole.top)
    patch = replace(whole, pixels=whole.pixels[:, lower:], u=whole.u[lower:], v=whole.v[lower:])
    u, v = patch.u, patch.v
    shoulders = np.maximum(1.75 + 0.16 * u * u - v, np.abs(u) - 2.05)
    patch.paint(patch.cover(shoulders), look.clothes * (1.0 - 0.18 * np.abs(u)))
    neck = np.maximum(np.abs(u) - 0.52 - 0.1 * np.maximum(0, v - 1.3), np.maximum(0.5 - v, v - 1.95 + 0.5 * u * u))
    patch.paint(patch.cover(neck), look.skin * np.float32(0.66))


def _paint_back_hair(patch: _Patch, look: Look) -> None:
    u, v = patch.u, patch.v
    hair = np.hypot(u / (look.width * 1.15), (v + 0.30) / 1.36) - 1.0
    if look.long_hair:
        hair = np.minimum(hair, np.maximum(np.abs(u) - look.width * 1.16, np.maximum(-0.3 - v, v - 1.5)))
    strands = 0.9 + 0.12 * np.sin(23 * u)
    patch.paint(patch.cover(hair), look.hair * strands)
    if not look.long_hair:
        ears = np.hypot((np.abs(u) - look.width) / 0.13, (v - 0.05) / 0.28) - 1.0
        patch.paint(patch.cover(ears * 0.13), look.skin * np.float32(0.72))


def _paint_fringe(patch: _Patch, look: Look) -> None:
    part = patch.near(0.0, -0.95, 1.15)
    u, v = part.u, part.v
    line = look.hairline + 0.42 * u * u + 0.03 * np.sin(9 * u + 3 * look.width)
    strands = 0.95 + 0.16 * np.sin(21 * u + 4 * v) + 0.22 * _gauss(u + 0.3, v + 1.2, 0.5, 0.2)
    part.paint(part.cover(np.maximum(v - line, _skull(u, v, look) - 0.12)), look.hair * strands)


def _paint_nose(patch: _Patch, look: Look) -> None:
    part = patch.near(0.0, 0.15, 0.75)
    u, v = part.u, part.v
    wide = look.nose_width
    ridge = 0.10 * _gauss(u, v - 0.05, 0.09 * wide, 0.36) + 0.12 * _gauss(u, v - 0.28, 0.11 * wide, 0.10)
    sides = 0.15 * _gauss(np.abs(u) - 0.18 * wide, v - 0.16, 0.08, 0.26)
    wings = 0.22 * _gauss(np.abs(u) - 0.22 * wide, v - 0.36, 0.05, 0.10)
    below = 0.26 * _gauss(u, v - 0.48, 0.22 * wide, 0.06)
    part.shade(1.0 + ridge - sides - wings - below)
    nostril = np.hypot((np.abs(u) - 0.115 * wide) / 0.075, (v - 0.415) / 0.045) - 1.0
    part.paint(0.8 * part.cover(nostril * 0.05), look.skin * np.float32(0.28))


def _paint_folds(patch: _Patch, expression: Expression) -> None:
    """Paint the shadows of an expression: cheeks and folds of a smile, the furrow of a frown."""
    part = patch.near(0.0, 0.3, 1.15)
    u = np.abs(part.u)
    v = part.v
    smile = max(0.0, expression.smile)
    frown = max(0.0, -expression.smile)
    fold = np.abs(u - 0.26 - 0.34 * np.clip(v - 0.36, 0, 0.6) - 0.06 * smile)
    reach = np.clip((v - 0.34) / 0.1, 0, 1) * np.clip((1.0 - v) / 0.25, 0, 1)
    shadow = (0.05 + 0.26 * smile) * np.exp(-((fold / 0.045) ** 2)) * reach
    cheeks = 0.13 * smile * _gauss(u - 0.62, v - 0.30, 0.20, 0.16)
    drop = 0.28 * frown * _gauss(u - 0.44, v - 1.0, 0.06, 0.10)
    furrow = 0.34 * frown * _gauss(u - 0.07, v - BROW_V - 0.02, 0.035, 0.13)
    sockets = 0.20 * _gauss(u - EYE_U, v - EYE_V + 0.04, 0.28, 0.17)
    part.shade(1.0 - shadow + cheeks - drop - furrow - sockets)


def _paint_eye(patch: _Patch, look: Look, expression: Expression, side: int) -> None:
    part = patch.near(side * EYE_U, EYE_V, 0.42)
    u = part.u - side * EYE_U
    v = part.v - EYE_V
    half = 0.225 * look.eye_size
    arch = np.maximum(0.0, 1.0 - (u / half) ** 2)
    top = -(0.012 + 0.165 * expression.eyes) * arch**0.7
    bottom = (0.02 + 0.085 * expression.eyes) * arch**0.8
    inside = np.maximum(top - v, v - bottom)
    within = np.abs(u) - half
    ball = part.cover(np.maximum(inside, within))
    part.paint(ball, _colour(238, 234, 230) * (1.0 - 0.9 * np.abs(u) * 0.4))
    radius = np.hypot(u, v + 0.015)
    part.paint(ball * part.cover(radius - 0.115), look.iris)
    part.paint(ball * part.cover(radius - 0.055), _colour(14, 12, 12))
    part.paint(ball * part.cover(np.hypot(u + 0.04, v + 0.055) - 0.028), _colour(255, 255, 255))
    lid = np.maximum(np.abs(v - top + 0.012) - 0.026, within - 0.02)
    part.paint(0.9 * part.cover(lid), look.hair * np.float32(0.5))
    crease = np.maximum(np.abs(v - top + 0.075) - 0.010, within)
    part.paint(0.35 * part.cover(crease), look.skin * np.float32(0.4))
    lower = np.maximum(np.abs(v - bottom - 0.008) - 0.008, within)
    part.paint(0.4 * part.cover(lower), look.skin * np.float32(0.4))


def _paint_brow(patch: _Patch, look: Look, expression: Expression, side: int) -> None:
    part = patch.near(side * 0.43, BROW_V, 0.55)
    out = part.u * side - 0.43  # -0.27 at the nose … 0.27 at the temple
    frown = max(0.0, -expression.smile)
    smile = max(0.0, expression.smile)
    line = BROW_V - 0.10 * expression.brows + 0.9 * out * out
    line = line + frown * (0.07 - 0.42 * out) * 0.8 - 0.04 * smile + 0.05 * out
    thick = look.brow_thickness * (1.0 - 0.9 * np.clip(out, -0.05, 0.3))
    shape = np.maximum(np.abs(part.v - line) - thick, np.abs(out) - 0.27)
    part.paint(0.92 * part.cover(shape), look.hair * np.float32(0.7))


def _mouth_half_width(look: Look, expression: Expression) -> float:
    return look.mouth_width * (1.0 + 0.34 * expression.smile - 0.12 * expression.opening)


def _paint_mouth(patch: _Patch, look: Look, expression: Expression) -> None:
    part = patch.near(0.0, MOUTH_V, 0.72)
    half = _mouth_half_width(look, expression)
    across = part.u / np.float32(half)
    arch = np.maximum(0.0, 1.0 - across * across)
    line = MOUTH_V + 0.19 * expression.smile * (0.4 - np.minimum(across * across, 1.2))
    smile = max(0.0, expression.smile)
    gap = 0.02 + 0.25 * expression.opening
    upper = line - (0.25 * gap + 0.06 * smile) * np.sqrt(arch)
    lower = line + (0.75 * gap + 0.03 * smile) * np.sqrt(arch)
    lip_top = upper - (0.085 - 0.03 * smile) * arch**0.6 * (1.0 - 0.25 * _gauss(part.u, part.u * 0, 0.06, 1.0))
    lip_bottom = lower + (0.115 - 0.03 * smile) * arch**0.7
    within = np.abs(part.u) - half
    lips = part.cover(np.maximum(np.maximum(lip_top - part.v, part.v - lip_bottom), within))
    shine = 1.0 + 0.16 * _gauss(part.u, part.v - lip_bottom + 0.06, 0.2, 0.04)
    part.paint(lips, look.lips * shine)
    cavity = part.cover(np.maximum(np.maximum(upper - part.v, part.v - lower), within))
    part.paint(cavity, _colour(58, 20, 24))
    teeth = cavity * part.cover(part.v - upper - 0.02 - 0.10 * (0.3 + 0.7 * smile)) * min(1.0, 12 * gap * (0.4 + smile))
    part.paint(teeth, _colour(236, 230, 222))
    part.shade(1.0 - 0.16 * _gauss(part.u, part.v - lip_bottom - 0.06, 0.24, 0.05))
    corner = 0.35 * _gauss(np.abs(part.u) - half, part.v - line, 0.05, 0.05)
    part.shade(1.0 - corner)
