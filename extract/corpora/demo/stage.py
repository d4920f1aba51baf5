"""The stage of the demo corpus: turns scripts into moving heads and draws every frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from extract.corpora.demo.face import Expression, Image, Light, Look, Pose, find_landmarks, paint_hand, paint_person
from extract.corpora.demo.script import Script, at_frames


@dataclass(frozen=True)
class Actor:
    """A person with a script: position of the head, expression and light in each frame."""

    look: Look
    script: Script
    poses: list[Pose]
    expressions: list[Expression]
    lights: list[Light]

    def find_landmarks(self) -> list[list[tuple[float, float]]]:
        """Pixels of eyes, nose and corners of the mouth in each frame, whether hidden or not."""
        return [find_landmarks(self.look, *pair) for pair in zip(self.poses, self.expressions, strict=True)]


def cast_actor(
    look: Look, script: Script, num_frames: int, rate: Fraction, centre: tuple[float, float], scale: float
) -> Actor:
    """Move a person's head and face according to the script.

    Args:
        look: the person.
        script: the script to follow.
        num_frames: video frames of the trial.
        rate: video frames per second.
        centre: of the head at rest, pixels (x, y).
        scale: pixels per face unit.
    """
    sway = at_frames(script.sway, num_frames, rate).tolist()
    tracks = (script.face_valence, script.face_arousal, script.opening, script.blink)
    shown = np.stack([at_frames(track, num_frames, rate) for track in tracks], axis=1).tolist()
    return Actor(
        look=look,
        script=script,
        poses=[_pose(centre, scale, *row[:5]) for row in sway],
        expressions=[_expression(*row) for row in shown],
        lights=[Light(u=0.25 * row[5], strength=1.0 + 0.05 * row[5]) for row in sway],
    )


def draw_pictures(wall: Image, actors: list[Actor], by_hand: bool) -> Iterator[NDArray[np.uint8]]:
    """Draw every frame.

    Args:
        wall: (3, H, W) background in [0, 255].
        actors: the people, all with the same number of frames.
        by_hand: whether a hand hides the face; otherwise the head turns away.

    Yields:
        (H, W, 3) RGB pictures.
    """
    for frame in range(len(actors[0].poses)):
        picture = wall.copy()
        for actor in actors:
            hidden = any(start <= frame < stop for start, stop in actor.script.hidden)
            pose, away = actor.poses[frame], hidden and not by_hand
            paint_person(picture, actor.look, pose, actor.expressions[frame], actor.lights[frame], away)
            if hidden and by_hand:
                paint_hand(picture, actor.look, pose)
        yield np.ascontiguousarray(np.rint(np.clip(picture, 0, 255)).astype(np.uint8).transpose(1, 2, 0))


def _pose(centre: tuple[float, float], scale: float, x: float, y: float, zoom: float, roll: float, yaw: float) -> Pose:
    return Pose(
        x=centre[0] + 0.14 * scale * x,
        y=centre[1] + 0.08 * scale * y,
        scale=scale * (1 + 0.03 * zoom),
        roll=0.06 * roll,
        yaw=min(0.9, max(-0.9, 0.4 * yaw)),
    )


def _expression(valence: float, arousal: float, opening: float, blink: float) -> Expression:
    return Expression(
        smile=valence,
        opening=opening,
        eyes=(0.52 + 0.48 * arousal) * blink,
        brows=min(1.0, max(-1.0, 0.4 * valence + 0.6 * arousal)),
    )
