"""Files of answers: every format by its own rules, and cues of about a second whose values are right."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cache.clock import FrameClock, PictureTimes
from cache.targets import Target
from extract.words.transcripts import read_words
from pipelines.cli.predict import predict
from pipelines.prediction import answers
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


EAF = {  # element → its children in their order, and its required attributes, by ELAN's schema (2.8 and 3.0)
    "ANNOTATION_DOCUMENT": (
        (
            "LICENSE HEADER TIME_ORDER TIER LINGUISTIC_TYPE LOCALE LANGUAGE CONSTRAINT CONTROLLED_VOCABULARY LEXICON_REF EXTERNAL_REF"
        ),
        {"AUTHOR", "DATE", "FORMAT", "VERSION"},
    ),
    "HEADER": ("MEDIA_DESCRIPTOR LINKED_FILE_DESCRIPTOR PROPERTY", {"TIME_UNITS"}),
    "MEDIA_DESCRIPTOR": ("", {"MEDIA_URL", "MIME_TYPE"}),
    "TIME_ORDER": ("TIME_SLOT", set()),
    "TIME_SLOT": ("", {"TIME_SLOT_ID", "TIME_VALUE"}),
    "TIER": ("ANNOTATION", {"TIER_ID", "LINGUISTIC_TYPE_REF"}),
    "ANNOTATION": ("ALIGNABLE_ANNOTATION", set()),
    "ALIGNABLE_ANNOTATION": ("ANNOTATION_VALUE", {"ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2"}),
    "ANNOTATION_VALUE": ("", set()),
    "LINGUISTIC_TYPE": ("", {"LINGUISTIC_TYPE_ID", "TIME_ALIGNABLE"}),
}


def read_elan(content: bytes) -> dict[str, list[tuple[int, int, str]]]:
    """Tier → its annotations, after holding the file against the rules of the schema and of ELAN."""
    root = ElementTree.fromstring(content)
    assert root.tag == "ANNOTATION_DOCUMENT"
    for element in root.iter():
        children, required = EAF[element.tag]
        order = [children.split().index(child.tag) for child in element]
        assert order == sorted(order), element.tag
        assert required <= element.attrib.keys(), element.tag
    assert len(root.findall("HEADER")) == len(root.findall("TIME_ORDER")) == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", root.attrib["DATE"])
    assert root.find("HEADER").attrib["TIME_UNITS"] == "milliseconds"
    ids = [
        value for one in root.iter() for key, value in one.attrib.items() if key in ("TIME_SLOT_ID", "ANNOTATION_ID")
    ]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", each) for each in ids)
    slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    kinds = [kind.attrib["LINGUISTIC_TYPE_ID"] for kind in root.iter("LINGUISTIC_TYPE")]
    tiers = {}
    for tier in root.iter("TIER"):
        assert tier.attrib["LINGUISTIC_TYPE_REF"] in kinds
        assert tier.attrib["TIER_ID"] not in tiers
        found = [
            (slots[one.attrib["TIME_SLOT_REF1"]], slots[one.attrib["TIME_SLOT_REF2"]], one.findtext("ANNOTATION_VALUE"))
            for one in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        assert all(start < end for start, end, _ in found)
        assert all(before[1] <= after[0] for before, after in pairwise(found))
        tiers[tier.attrib["TIER_ID"]] = found
    return tiers


def test_elan(steps: Answer) -> None:
    content = steps.format("elan")
    tiers = read_elan(content)
    assert list(tiers) == ["valence <joy>", "arousal"]
    assert tiers["valence <joy>"] == [(0, 2000, "0.50"), (2000, 3000, "0.00"), (3000, 3500, "1.00")]
    media = ElementTree.fromstring(content).find("HEADER/MEDIA_DESCRIPTOR")
    assert media.attrib["MEDIA_URL"].endswith("a%20%26%20b.mp4")
    assert media.attrib["MIME_TYPE"] == "video/mp4"


def test_elan_has_no_annotation_without_duration(tmp_path: Path) -> None:
    """A last picture at a full second that is shown for 0.1 ms."""
    ticks = (0, *range(9_998, 10_001))
    clock = FrameClock(Fraction(1), 4, times=PictureTimes(Fraction(1, 10_000), ticks))
    tiers = read_elan(answer(tmp_path, clock, np.array([0.2, 0.2, 0.2, 0.8])).format("elan"))
    assert tiers["valence <joy>"] == [(0, 1000, "0.20")]


def test_the_command_knows_every_format() -> None:
    """It lists them itself, because help must not import numpy."""
    (option,) = (each for each in predict.params if each.name == "formats")
    assert tuple(option.type.choices) == tuple(FORMATS)


def test_json_and_csv_hold_the_same(steps: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = steps.format("csv")
    monkeypatch.setattr(answers, "_ROWS", 8)
    assert steps.format("csv") == whole
    document = json.loads(steps.format("json"))
    header, first, *rows = steps.format("csv").decode().splitlines()
    assert header == "frame,time_s,valence <joy>,arousal,valence <joy>_spread,arousal_spread,face"
    assert first == "0,0,0.5,7,,,0"
    assert rows[-1] == "34,3.4,1,9,,,1"
    assert list(document["columns"]) == header.split(",")
    assert document["columns"]["arousal"][0] == 7
    assert document["columns"]["arousal_spread"] == [None] * 35
    assert document["targets"]["arousal"] == {"low": 1, "high": 9}
