"""Files of answers: every format by its own rules, and cues of about a second whose values are right."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cache.clock import FrameClock, PictureTimes
from cache.targets import Target
from extract.words.transcripts import read_words
from pipelines.cli.predict import predict
from pipelines.prediction.answers import FORMATS, Answer


def answer(tmp_path: Path, clock: FrameClock, valence: np.ndarray) -> Answer:
    video = tmp_path / "a & b.mp4"
    video.touch()
    targets = (Target("valence <joy>"), Target("arousal", low=1, high=9))
    values = np.stack([valence, 5 + 4 * valence], axis=1).astype(np.float32)
    spread = np.full_like(values, np.nan)
    return Answer(video, clock, targets, values, spread, {"face": np.arange(len(valence)) > 2})


@pytest.fixture
def steps(tmp_path: Path) -> Answer:
    """Three and a half seconds: 0.5, 0.5, -0.001, 1."""
    clock = FrameClock(Fraction(10), 35)
    return answer(tmp_path, clock, np.repeat([0.5, 0.5, -0.001, 1.0], [10, 10, 10, 5]))


def test_equal_seconds_are_one_cue(steps: Answer) -> None:
    assert list(steps.cues([0])) == [(0, 2, ("0.50",)), (2, 3, ("0.00",)), (3, 3.5, ("1.00",))]
    assert [texts for _, _, texts in steps.cues([0, 1])] == [("0.50", "7.0"), ("0.00", "5.0"), ("1.00", "9.0")]


def test_cues_of_varying_pictures_follow_their_times(tmp_path: Path) -> None:
    clock = FrameClock(Fraction(2), 4, times=PictureTimes(Fraction(1, 10), (0, 9, 11, 30)))
    found = list(answer(tmp_path, clock, np.array([0.2, 0.4, 0.6, 0.8])).cues([0]))
    assert [(start, texts) for start, _, texts in found] == [(0, ("0.30",)), (1.1, ("0.60",)), (3, ("0.80",))]


def test_webvtt(steps: Answer, tmp_path: Path) -> None:
    text = steps.format("vtt").decode()
    head, first, *_ = text.split("\n\n")
    assert head == "WEBVTT"
    assert first == "00:00:00.000 --> 00:00:02.000\nvalence &lt;joy&gt; 0.50  arousal 7.0"
    (tmp_path / "x.vtt").write_text(text, encoding="utf-8")
    assert {word.text for word in read_words(tmp_path / "x.vtt")} >= {"arousal", "0.50", "9.0"}


def test_elan(steps: Answer) -> None:
    """By the rules of EAFv3.0.xsd: order of elements, required attributes, unique ids, references that exist."""
    root = ElementTree.fromstring(steps.format("elan"))
    kinds = [element.tag for element in root]
    assert kinds == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    assert {"AUTHOR", "DATE", "FORMAT", "VERSION"} <= root.attrib.keys()
    slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root.iter("TIME_SLOT")}
    assert len(slots) == len(list(root.iter("TIME_SLOT"))) == 12
    (kind,) = (element.attrib["LINGUISTIC_TYPE_ID"] for element in root.iter("LINGUISTIC_TYPE"))
    tiers = {}
    for tier in root.iter("TIER"):
        assert tier.attrib["LINGUISTIC_TYPE_REF"] == kind
        tiers[tier.attrib["TIER_ID"]] = [
            (slots[one.attrib["TIME_SLOT_REF1"]], slots[one.attrib["TIME_SLOT_REF2"]], one.findtext("ANNOTATION_VALUE"))
            for one in tier.iter("ALIGNABLE_ANNOTATION")
        ]
    assert tiers["valence <joy>"] == [(0, 2000, "0.50"), (2000, 3000, "0.00"), (3000, 3500, "1.00")]
    assert root.find("HEADER/MEDIA_DESCRIPTOR").attrib["MEDIA_URL"].endswith("a%20%26%20b.mp4")
    assert len({one.attrib["ANNOTATION_ID"] for one in root.iter("ALIGNABLE_ANNOTATION")}) == 6


def test_the_command_knows_every_format() -> None:
    """It lists them itself, because help must not import numpy."""
    (option,) = (each for each in predict.params if each.name == "formats")
    assert tuple(option.type.choices) == tuple(FORMATS)


def test_json_and_csv_hold_the_same(steps: Answer) -> None:
    document = json.loads(steps.format("json"))
    header, first, *rows = steps.format("csv").decode().splitlines()
    assert header == "frame,time_s,valence <joy>,arousal,valence <joy>_spread,arousal_spread,face"
    assert first == "0,0,0.5,7,,,0"
    assert rows[-1] == "34,3.4,1,9,,,1"
    assert list(document["columns"]) == header.split(",")
    assert document["columns"]["arousal"][0] == 7
    assert document["columns"]["arousal_spread"] == [None] * 35
    assert document["targets"]["arousal"] == {"low": 1, "high": 9}
