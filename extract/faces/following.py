"""Follow one face in a video that still grows: what can be known of `extract.faces.tracking` without the rest of the video.

Faces are detected in the same frames as in a finished video, linked to the same tracklets and interpolated in the same way, so a
frame waits for the next detection, or for the end of a gap in which none is found. Who is followed cannot depend on the whole
video: it is the face that `face` names among those seen when the first one is, then the same tracklet for as long as it lasts,
and after it one in the same place or, if it was never seen together with the person, of similar size. After a cut nobody knows
who is who, and the face is chosen anew. In a video of one person without cuts the crops are those of the finished video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from cache.errors import SettingError
from extract.faces.crops import encode_crop
from extract.faces.detection import Detector
from extract.faces.finding import enlarging
from extract.faces.linking import SAME_PLACE, SAME_SIZE, Linker, Tracklet, box_distance
from extract.faces.people import Person
from extract.faces.search import FaceSearch, Sight
from extract.faces.settings import CropConfig
from extract.faces.tracking import FACES, is_in_half
from extract.media.video import Converter, shown_size


class FaceFollower:
    """Crops of the face that is followed.

    Args:
        config: settings of the crops.
        face: "largest", "centre", "left" or "right".
        detector: with the same settings.
        pixel_aspect: width of a stored pixel divided by its height.

    Attributes:
        ready: frames of which is known where the face is.

    Raises:
        SettingError: if the face is none of these.
    """

    def __init__(self, config: CropConfig, face: str, detector: Detector, pixel_aspect: Fraction) -> None:
        if face not in FACES:
            raise SettingError(
                f"A live prediction cannot follow face '{face}'; expected one of {', '.join(FACES)}. Change --face."
            )
        self.ready = 0
        self._config, self._face, self._detector, self._aspect = config, face, detector, pixel_aspect
        self._small = Converter(config.faces.max_side, pixel_aspect)
        self._full = Converter(None, pixel_aspect)
        self._linker = Linker(config.faces)
        self._person = Person()
        self._followed: Tracklet | None = None
        self._search: FaceSearch | None = None
        self._size = (0, 0)
        self._seen = 0
        self._frames: deque[av.VideoFrame] = deque()  # those that are not ready
        self._crops: dict[int, bytes] = {}

    def see(self, frame: av.VideoFrame) -> None:
        """The next picture."""
        if self._search is None:
            self._size = shown_size(frame, self._aspect)
            detect = enlarging(self._detector, self._size, self._config.faces.max_side)
            self._search = FaceSearch(detect, self._config.faces, 1)
        self._frames.append(frame)
        self._seen += 1
        self._advance(self._search.add(self._seen - 1, self._small(frame)), False)

    def finish(self) -> None:
        """No picture follows."""
        if self._search is not None:
            self._advance(self._search.finish(), True)

    def crop(self, frame: int) -> bytes | None:
        """JPEG of the face in a ready frame that is not forgotten; None where it is absent."""
        return self._crops.get(frame)

    def forget(self, frame: int) -> None:
        """Drop the crops before a frame."""
        for old in [key for key in self._crops if key < frame]:
            del self._crops[old]

    def _advance(self, decided: Sequence[Sight], final: bool) -> None:
        for sight in decided:
            self._linker.add(sight)
        limit = self._seen if final else max((sight.frame for sight in decided), default=-1) + 1
        while self.ready < limit and not self._waits(final):
            part = self._followed
            if part is not None and part.frames[0] <= self.ready <= part.frames[-1]:
                (landmarks,) = part.between(self.ready, self.ready + 1)
                picture = self._full(self._frames[0])
                self._crops[self.ready] = encode_crop(picture, landmarks, self._config)
            self._frames.popleft()
            self.ready += 1

    def _waits(self, final: bool) -> bool:
        """Whether it is still open where the face is in the next frame; chooses whom to follow from there on."""
        frame, part = self.ready, self._followed
        if part is not None and frame <= part.frames[-1]:
            return False
        active = [] if final else self._linker.active
        if any(part is one for one in active):
            return True
        near = [one for one in (*self._linker.done, *self._linker.active) if one.frames[0] <= frame and one is not part]
        if any(one.frames[-1] < frame or len(one.frames) == 1 for one in near if any(one is other for other in active)):
            return True
        usual = [one for one in near if len(one.frames) > 1] or (near if final and not self._person.tracklets else [])
        candidates = [one for one in usual if one.frames[-1] >= frame and self._may_follow(one)]
        chosen = self._choose(candidates)
        if chosen is not None:
            if self._person.tracklets and self._person.tracklets[-1].shot < chosen.shot:
                self._person = Person()
            self._followed = chosen
            self._person.add(chosen)
        return False

    def _may_follow(self, part: Tracklet) -> bool:
        """Whether a tracklet can be the person that was followed so far."""
        person = self._person
        if not person.tracklets or person.tracklets[-1].shot < part.shot:  # nobody knows who is who after a cut
            return True
        if person.meets(part):
            return False
        others = (*self._linker.done, *self._linker.active)
        rivals = [one for one in others if one is not part and one.frames[0] < part.frames[0] and person.meets(one)]
        rivals = [one for one in rivals if not any(one is own for own in person.tracklets)]
        nearest = min((box_distance(one.last_box, part.first_box) for one in rivals), default=float("inf"))
        away = box_distance(person.tracklets[-1].last_box, part.first_box)
        if away <= SAME_PLACE:
            return away <= nearest
        sides = [person.place()[1], Person([part]).place()[1]]
        return max(sides) <= SAME_SIZE * min(sides) and nearest > SAME_PLACE

    def _choose(self, parts: Sequence[Tracklet]) -> Tracklet | None:
        """The face to follow among some in one frame."""
        if self._person.tracklets and all(part.shot == self._person.tracklets[-1].shot for part in parts):
            last = self._person.tracklets[-1].last_box
            return min(parts, key=lambda part: box_distance(last, part.first_box), default=None)
        people = {id(part): Person([part]) for part in parts}
        if self._face in ("left", "right") and len(parts) == 1:
            parts = [part for part in parts if is_in_half(people[id(part)], self._face, self._size[1])]

        def rank(part: Tracklet) -> float:
            centre, side = people[id(part)].place()
            if self._face == "largest":
                return -side
            if self._face == "centre":
                return float(np.hypot(centre[0] - self._size[1] / 2, centre[1] - self._size[0] / 2))
            return float(centre[0] if self._face == "left" else -centre[0])

        return min(parts, key=rank, default=None)
