"""Reading transcripts of every format, good and bad, and writing ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from cache.errors import CorpusError, MissingFileError, SettingError
from extract.words.transcripts import read_words, write_words
from extract.words.words import Word

HELLO = [Word("hello", 0.5, 1.25), Word("you", 2.0, 2.5)]

GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2.5
            text = "h"
    item [2]:
        class = "IntervalTier"
        name = "Words"
        xmin = 0
        xmax = 2.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "hello"
        intervals [3]:
            xmin = 1.25
            xmax = 2.0
            text = "SIL"
        intervals [4]:
            xmin = 2.0
            xmax = 2.5
            text = "you"
"""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def listed(*words: tuple[str, float, float], key: str = "words", **more: object) -> dict[str, object]:
    return {key: [{"word": text, "start": start, "end": end} for text, start, end in words], **more}


PAIR = (("hello", 0.5, 1.25), ("you", 2, 2.5))


@pytest.mark.parametrize(
    "document",
    [
        listed(*PAIR),
        listed(*PAIR[::-1]),
        listed(*PAIR, key="result", text="hello you"),
        [listed(PAIR[0], key="result"), {"text": ""}, listed(PAIR[1], key="result")],
        {"segments": [listed((" hello", 0.5, 1.25)), listed(PAIR[1])], "text": "hello you"},
        {"segments": [{"text": "hello you"}], **listed(*PAIR)},
        listed(*PAIR)["words"],
        [{"text": text, "start": start, "end": end, "conf": [1]} for text, start, end in PAIR],
        [{"text": " hello you", "start": 0, "end": 3, **listed(*PAIR)}],
    ],
    ids=["ours", "unsorted", "vosk", "vosk-blocks", "whisper", "openai", "list", "list-of-text", "list-of-segments"],
)
def test_json(tmp_path: Path, document: object) -> None:
    assert read_words(write(tmp_path, "a.json", json.dumps(document))) == HELLO


def test_subtitles(tmp_path: Path) -> None:
    expected = [Word("Hi,", 1.0, 1.375), Word("my", 1.375, 1.625), Word("name", 1.625, 2.125), Word("is", 2.125, 2.375)]
    expected += [Word("7", 2.375, 2.5), Word("He&", 3602.5, 3603.4), Word("me", 3603.4, 3604.0)]
    srt = "\ufeff1\n00:00:01,000 --> 00:00:02,500\n<i>Hi</i>, my name\nis 7\n\n2\n01:00:02,500 --> 01:00:04,000\n{\\an8}He&amp; - me\n"
    assert read_words(write(tmp_path, "a.srt", srt)) == expected
    assert read_words(write(tmp_path, "b.SRT", srt.replace("\n", "\r\n"))) == expected
    vtt = "WEBVTT\n\nNOTE no\nword\n\nintro\n00:01.000 --> 00:02.500 align:start\n<v Al>Hi, <i>my</i> name\nis 7\n\nNOTE nor here\n"
    vtt += "\n00:02.500 --> 00:02.600\n\n01:00:02.500 --> 01:00:04.000\nHe&amp; ♪ <c.red>me</c>\n"
    assert read_words(write(tmp_path, "a.vtt", vtt)) == expected


def vtt(*cues: str) -> str:
    return "\n\n".join(("WEBVTT", *cues)) + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello<00:00:03.000><c> world</c>", [("hello", 0, 3), ("world", 3, 4)]),
        (
            "<00:01.000>hi <v Al><00:01.500><b>you</b> <c.a>too</c>",
            [("hi", 1, 1.5), ("you", 1.5, 2.75), ("too", 2.75, 4)],
        ),
        ("a bcd<00:00:02.000>\n<00:00:02.500><00:00:02.500>e", [("a", 0, 0.5), ("bcd", 0.5, 2), ("e", 2.5, 4)]),
        ("♪ <00:01.000>a <00:02.000>- &amp;b<00:04.000>", [("a", 1, 2), ("&b", 2, 4)]),
        ("<00:00.000>Lo<00:01.000>ve me<00:03.000> do", [("Love", 0, 2), ("me", 2, 3), ("do", 3, 4)]),
        ("I <3 you > alls <bb", [("I", 0, 0.5), ("alls", 0.5, 2.5), ("<bb", 2.5, 4)]),
        ("2>1 <i>or</i>", [("2>1", 0, 2.4), ("or", 2.4, 4)]),
        ("<00:01.000>hi<00:00:02.000></c>", [("hi", 1, 2)]),
    ],
    ids=["youtube", "tags", "lines", "signs", "syllables", "like-tags", "greater", "silence"],
)
def test_times_within_a_cue_of_webvtt(tmp_path: Path, text: str, expected: list[tuple[str, float, float]]) -> None:
    path = write(tmp_path, "a.vtt", vtt(f"00:00:00.000 --> 00:00:04.000\n{text}"))
    assert read_words(path) == [Word(*word) for word in expected]


def test_times_within_a_cue_are_of_webvtt_only(tmp_path: Path) -> None:
    srt = "1\n00:00:00,000 --> 00:00:04,000\nhello<00:00:03.000><c> world</c> <00:00:09.000>\n"
    assert read_words(write(tmp_path, "a.srt", srt)) == [Word("hello", 0, 2), Word("world", 2, 4)]


def test_automatic_captions_of_youtube(tmp_path: Path) -> None:
    """Their cues may begin or end with a line of one blank, which is no end of the cue."""
    head = "WEBVTT\nKind: captions\nLanguage: en\n\n"
    cues = "00:00:00.160 --> 00:00:02.310 align:start position:0%\n \n"
    cues += "hello<00:00:00.480><c> and</c><00:00:00.640><c> you</c>\n\n"
    cues += "00:00:02.310 --> 00:00:02.310 align:start position:0%\nhi\n \n\n00:00:02.310 --> 00:00:03.000\n \n \n"
    expected = [Word("hello", 0.16, 0.48), Word("and", 0.48, 0.64), Word("you", 0.64, 2.31), Word("hi", 2.31, 2.31)]
    assert read_words(write(tmp_path, "a.vtt", head + cues)) == expected


def test_all_cues_with_wrong_times_within_are_listed_at_once(tmp_path: Path) -> None:
    span = "00:00:01.000 --> 00:00:04.000\n"
    texts = (
        "a<00:00:05.000> b",
        "<00:00:00.500>a",
        "a<00:00:03.000> b<00:00:02.000> c",
        "a<00:03> b",
        "a <1:00:03,000>b",
    )
    good, backwards = "a <00:00:02.000>b", "00:00:04.000 --> 00:00:01.000\na <00:00:02.000>b"
    with pytest.raises(CorpusError) as caught:
        read_words(write(tmp_path, "a.vtt", vtt(*(span + text for text in (good, *texts)), backwards)))
    told = str(caught.value)
    assert "a.vtt' has 6 fault(s)" in told
    expected = "expected those within its text in order and from 1.0 s to 4.0 s"
    for number, fault in enumerate(("5.0 s back to 4.0 s", "1.0 s back to 0.5 s", "3.0 s back to 2.0 s"), start=2):
        assert f"cue {number} (line {3 * number}): its times go from {fault}, {expected}" in told
    for number, tag in ((5, "<00:03>"), (6, "<1:00:03,000>")):
        assert f"cue {number} (line {3 * number}): a time within its text is {tag}, expected <hh:mm:ss.mmm>" in told
    assert "cue 7 (line 21): it ends at 1.0 s before it starts at 4.0 s" in told


def test_textgrids(tmp_path: Path) -> None:
    assert read_words(write(tmp_path, "a.TextGrid", GRID)) == HELLO
    assert read_words(write(tmp_path, "b.textgrid", GRID.encode("utf-16"))) == HELLO
    assert read_words(write(tmp_path, "c.TEXTGRID", GRID.replace("\n", "\r\n").encode("utf-8-sig"))) == HELLO


@pytest.mark.parametrize(
    "error", [Exception("bare"), IndexError("index"), RecursionError("deep"), OverflowError("huge")]
)
def test_whatever_the_library_of_textgrids_raises_is_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write(tmp_path, "a.TextGrid", GRID)
    monkeypatch.setattr("praatio.textgrid.openTextgrid", Mock(side_effect=error))
    with pytest.raises(
        CorpusError, match=rf"a.TextGrid' cannot be read: .*{type(error).__name__}: {error}\). Fix the file.$"
    ):
        read_words(path)
    monkeypatch.setattr("praatio.textgrid.openTextgrid", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read_words(path)


@pytest.mark.parametrize("name", ["a.json", "a.srt", "a.vtt"])
def test_a_file_that_may_not_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write(tmp_path, name, "")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(CorpusError, match=rf"{name}' cannot be read: .*Permission denied"):
        read_words(path)


def test_words_may_overlap_and_have_no_length(tmp_path: Path) -> None:
    words = [("a", 0, 2), ("b", 0, 0), ("c", 1, 1.5)]
    assert read_words(write(tmp_path, "a.json", json.dumps(listed(*words)))) == [Word(*word) for word in words]
    assert read_words(write(tmp_path, "b.json", '{"words": []}')) == []
    assert read_words(write(tmp_path, "c.json", "[]")) == []


def test_written_words_come_back_and_give_the_same_bytes(tmp_path: Path) -> None:
    words = [Word("Zürich,", 0.1, 0.2), Word("1/3", 1 / 3, 2 / 3)]
    write_words(tmp_path / "new" / "a.json", words)
    write_words(tmp_path / "b.json", words)
    assert read_words(tmp_path / "b.json") == words
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_any_damage_to_a_written_transcript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_words(path, [Word("Zürich,", 0.1, 0.2)])
    content = path.read_bytes()
    flips = ((place, 1 << bit) for place in range(len(content)) for bit in range(8))
    damages = [content[:p] + bytes([content[p] ^ mask]) + content[p + 1 :] for p, mask in flips]
    for damaged in (*damages, *(content[:length] for length in range(len(content)))):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError):
            read_words(path)


@pytest.mark.parametrize(
    ("old", "new"), [("Zürich", "Zurich"), ("0.2", "0.3"), ("digest", "digesu"), ("\n ]", "\n  ]")]
)
def test_an_altered_transcript_is_refused_with_what_to_do(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "a.json"
    write_words(path, [Word("Zürich,", 0.1, 0.2)])
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(CorpusError, match="transcribe") as caught:
        read_words(path)
    assert str(path) in str(caught.value)
    assert "digest" in str(caught.value)


@pytest.mark.parametrize("other", [{}, {"sha256": "0" * 64}, {"text": "Zürich,", "language": "de"}])
def test_a_transcript_without_a_digest_is_anybodys(tmp_path: Path, other: dict[str, str]) -> None:
    path = tmp_path / "a.json"
    write_words(path, [Word("Zürich,", 0.1, 0.2)])
    document = json.loads(path.read_text("utf-8"))
    del document["digest"]  # what a message proposes to who corrected a word
    document["words"][0]["word"] = "Zuerich"
    path.write_text(json.dumps({**other, **document}), "utf-8")
    assert read_words(path) == [Word("Zuerich", 0.1, 0.2)]


def test_all_faults_of_a_transcript_are_listed_at_once(tmp_path: Path) -> None:
    rows = '[{"word":"a","start":NaN,"end":2},{"word":" ","start":1,"end":2},{"word":"x","start":3,"end":2},'
    rows += '{"word":"x","start":true,"end":2},{"word":"x","end":"2 s"},{"word":"x","start":-1},{"word":"y","start":1,"end":1e999}]'
    with pytest.raises(CorpusError) as caught:
        read_words(write(tmp_path, "a.json", f'{{"words": {rows}}}'))
    text = str(caught.value)
    assert "a.json' has 7 fault(s)" in text
    for fault in (
        "words[0]: the start is nan",
        "words[1]: the text is ' '",
        "words[2]: it ends at 2 s before it starts at 3 s",
    ):
        assert fault in text
    for fault in (
        "words[3]: the start is True",
        "words[4]: the end is '2 s', expected 0 to 1000000 seconds",
        "words[5]: the start is -1, expected 0 to 1000000 seconds",
        "words[6]: the end is inf",
    ):
        assert fault in text


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "", "has the suffix '.txt', expected one of .json"),
        ("a.json", "[[[[", "it is not JSON"),
        ("a.json", "", r"it is not JSON \(Expecting value: line 1"),
        ("a.json", '{"words": [{"word": "a", "start": 1' + "0" * 5000 + ', "end": 1}]}', r"it is not JSON \(Exceeds"),
        (
            "a.json",
            '{"words": [{"word": "a", "start": 0, "end": 1' + "0" * 400 + "}]}",
            "the end is 10000.*, expected 0 to 1000000 seconds",
        ),
        ("a.json", '{"words": []}'.encode("utf-16-le"), "not UTF-8 .* 0x00, as in UTF-16 .*. Save it as UTF-8.$"),
        ("a.json", "[" * 100_000, "nested too deeply; .* Fix the file.$"),
        ("a.json", b"\xff\xfe\xff", r"read: it is not UTF-8 \(byte 0 is 0xff\). Save it as UTF-8.$"),
        ("a.json", '["a"]', r"\[0\] has no list 'words'"),
        ("a.json", '[{"word": "a", "start": 0, "end": 1}, 3]', r"\[1\] is 3, expected an object"),
        (
            "a.json",
            '[{"word": "a", "start": 0}, {"word": "b"}]',
            r"none of its 2 word\(s\) has a start and an end; expected .* word_timestamps=True",
        ),
        ("a.json", '[{"word": "a", "start": 0, "end": 1}, {"words": []}]', r"\[0\] has no list 'words'"),
        ("a.json", '[{"text": " a b", "start": 0, "end": 1}]', r"\[0\]: the text is ' a b', .* word_timestamps=True"),
        ("a.json", "3", "the document has no list 'words'"),
        ("a.json", '{"words": [3]}', r"words\[0\] is 3, expected an object"),
        ("a.json", '{"segments": [{"text": "x"}]}', r"none of its 1 word\(s\) .* word_timestamps=True"),
        ("a.json", '{"segments": [{"words": 3}]}', r"segments\[0\] has no list .* word_timestamps=True"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,500\nH\xe9\n", r"not UTF-8 \(byte 33 is 0xe9\)"),
        ("a.vtt", b"\xef\xbb\xbfWEBVTT\n\n\xe9", r"not UTF-8 \(byte 11 is 0xe9\)"),
        ("a.TextGrid", "", "not a complete TextGrid"),
        ("a.TextGrid", GRID[:500], "not a complete TextGrid"),
        ("a.TextGrid", GRID.replace("xmax = 1.25", "xmax = 0.25"), r"\(0.5\) cannot occur after its end time \(0.25\)"),
        (
            "a.TextGrid",
            GRID.replace('"Words"', '"W"'),
            "its tiers are 'phones', 'W'; expected one interval tier named 'words'",
        ),
        ("a.TextGrid", GRID.replace('"phones"', '"word"'), "its tiers are 'word', 'Words'; expected one"),
        ("a.TextGrid", b"\xff\xff\x00", r"not UTF-8 \(byte 0 is 0xff\)"),
        ("a.TextGrid", GRID.replace("hello", "h\xe9").encode("latin-1"), r"not UTF-8 \(byte 641 is 0xe9\)"),
    ],
)
def test_files_that_are_no_transcripts(tmp_path: Path, name: str, content: str | bytes, text: str) -> None:
    with pytest.raises(CorpusError, match=text) as caught:
        read_words(write(tmp_path, name, content))
    assert name in str(caught.value)


def test_what_is_absent_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match="No transcript"):
        read_words(tmp_path / "a.json")
    monkeypatch.setitem(sys.modules, "praatio.textgrid", None)
    with pytest.raises(SettingError, match=r"Reading TextGrids needs the library 'praatio'.*'avfusion\[words\]'"):
        read_words(write(tmp_path, "a.TextGrid", GRID))
