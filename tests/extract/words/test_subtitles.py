"""Subtitles as real files have them: blanks, comments, captions that roll, cues that have lost their times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CorpusError
from extract.words.subtitles import read_cues
from extract.words.transcripts import read_words
from extract.words.words import Word

Spoken = list[tuple[str, float, float]]
HELLO_BYE = [("hello", 1.0, 2.0), ("bye", 3.0, 4.0)]


def words_of(text: str, kind: str) -> Spoken:
    entries = read_cues(text, kind)
    assert [entry for entry in entries if entry.fault] == []
    return [(entry.text, entry.start, entry.end) for entry in entries]


def faults_of(text: str, kind: str) -> list[tuple[str, str]]:
    return [(entry.place, entry.fault) for entry in read_cues(text, kind) if entry.fault]


def moment(seconds: float, mark: str = ".") -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def compose(cues: Sequence[tuple[float, float, str]], kind: str) -> str:
    """A file of cues (start, end, text); a blank stands where a line of the text is empty, as YouTube writes it."""
    blocks = ["WEBVTT"] if kind == "vtt" else []
    for number, (start, end, text) in enumerate(cues, start=1):
        number_line = [str(number)] if kind == "srt" else []
        mark = "," if kind == "srt" else "."
        lines = [line or " " for line in text.split("\n")]
        blocks.append("\n".join([*number_line, f"{moment(start, mark)} --> {moment(end, mark)}", *lines]))
    return "\n\n".join(blocks) + "\n"


SRT = "1\n00:00:01,000 --> 00:00:02,000\nhello\n\n2\n00:00:03,000 --> 00:00:04,000\nbye\n"
SRT_FORMS = {
    "plain": SRT,
    "blank-lines-first": "\n \n\n" + SRT,
    "no-final-newline": SRT.rstrip(),
    "many-final-newlines": SRT + "\n \n\t\n\n",
    "crlf": SRT.replace("\n", "\r\n"),
    "old-mac": SRT.replace("\n", "\r"),
    "crcrlf": SRT.replace("\n", "\r\r\n"),
    "mark": "\ufeff" + SRT,
    "mark-within": SRT.replace("2\n", "\ufeff2\n"),
    "blanks-around-numbers": SRT.replace("1\n", " 1 \n", 1).replace("\n2\n", "\n2\t\n"),
    "blanks-around-arrows": SRT.replace(" --> ", "  -->\t").replace("000\n", "000 \n").replace("\n00", "\n 00"),
    "no-blanks-around-arrows": SRT.replace(" --> ", "-->"),
    "blanks-between-cues": SRT.replace("\n\n", "\n \n"),
    "tab-between-cues": SRT.replace("\n\n", "\n\t\n"),
    "no-line-between-cues": SRT.replace("\n\n", "\n"),
    "three-lines-between-cues": SRT.replace("\n\n", "\n\n\n\n"),
    "empty-line-below-number": SRT.replace("\n2\n", "\n2\n\n"),
    "points": SRT.replace(",", "."),
    "short-hours": SRT.replace("00:00:0", "0:00:0"),
    "no-hours": SRT.replace("00:00:0", "00:0"),
    "short-everything": SRT.replace("00:00:0", "0:0:"),
    "one-digit": SRT.replace(",000", ",0"),
    "two-digits": SRT.replace(",000", ".00"),
    "microseconds": SRT.replace(",000", ".000000"),
    "no-fractions": SRT.replace(",000", ""),
    "no-numbers": SRT.replace("1\n", "", 1).replace("\n2\n", "\n"),
    "numbers-again": SRT.replace("\n2\n", "\n1\n"),
    "names": SRT.replace("1\n", "the first\n", 1).replace("\n2\n", "\nsecond one:\n"),
    "coordinates": SRT.replace(",000\n", ",000 X1:201 X2:516 Y1:397 Y2:423\n"),
    "settings": SRT.replace(",000\n", ",000  align:start position:0% line: 5\n"),
    "tags": SRT.replace("hello", "<i>hello</i>").replace("bye", '{\\an8}<font color="#fff">bye</font>'),
    "times-as-tags": SRT.replace("hello", "<00:00:01.500><c>hello</c>"),
    "entities": SRT.replace("bye", "&#98;ye &nbsp;&lt;&gt;"),
    "empty-cue": SRT + "\n3\n00:00:05,000 --> 00:00:06,000\n\n4\n00:00:07,000 --> 00:00:08,000\n \n",
    "empty-line-above-text": SRT.replace(",000\n", ",000\n\n"),
    "blank-line-above-text": SRT.replace(",000\n", ",000\n \n"),
    "blank-line-below-text": SRT.replace("hello", "hello\n "),
    "signs": SRT.replace("hello", "♪ hello -"),
}


@pytest.mark.parametrize("form", SRT_FORMS)
def test_subrip_as_it_is_found(form: str) -> None:
    assert words_of(SRT_FORMS[form], "srt") == HELLO_BYE


VTT = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nhello\n\n00:00:03.000 --> 00:00:04.000\nbye\n"
VTT_FORMS = {
    "plain": VTT,
    "title": VTT.replace("WEBVTT", "WEBVTT - some title"),
    "tab": VTT.replace("WEBVTT", "WEBVTT\t"),
    "blank-lines-first": "\n \n" + VTT,
    "mark": "\ufeff" + VTT,
    "head": VTT.replace("WEBVTT", "WEBVTT\nKind: captions\nLanguage: en"),
    "head-below": VTT.replace("WEBVTT", "WEBVTT\n\nKind: captions\nLanguage: en"),
    "segment": VTT.replace("WEBVTT", "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000"),
    "segment-below": VTT.replace("WEBVTT", "WEBVTT\n\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000"),
    "youtube-style": VTT.replace("WEBVTT", "WEBVTT\nStyle:\n::cue(c.colorCCCCCC) { color: rgb(204,204,204);\n }\n##"),
    "head-without-line": VTT.replace("WEBVTT\n", "WEBVTT"),
    "note": VTT.replace("WEBVTT", "WEBVTT\n\nNOTE a remark\nover lines --\n \nwith blanks\n\nNOTE\n"),
    "note-between": VTT.replace("hello\n", "hello\n\nNOTE a remark\n"),
    "note-below-blanks": VTT.replace("hello\n", "hello\n \nNOTE a remark\n"),
    "note-last": VTT + "\nNOTE the end",
    "style": VTT.replace("WEBVTT", "WEBVTT\n\nSTYLE\n::cue {\n  color: red;\n}\n\nSTYLE \n::cue(b) { }"),
    "region": VTT.replace("WEBVTT", "WEBVTT\n\nREGION\nid:fred\nwidth:40%\nscroll:up"),
    "names": VTT.replace("00:00:01", "intro 1 - a name\n00:00:01").replace("00:00:03", "2\n00:00:03"),
    "settings": VTT.replace("2.000", "2.000 align:start position:0% line:-1 vertical:rl region:fred size:50%"),
    "tags": VTT.replace("hello", "<v Al B.><i.loud>hello</i></v>").replace("bye", "<c.yellow.bg_blue>bye</c>"),
    "language": VTT.replace("hello", "<lang en-GB>hello</lang>").replace("bye", "{\\an8}bye"),
    "entities": VTT.replace("hello", "&lrm;&nbsp;&#104;ello").replace("\u200e", ""),
    "no-hours": VTT.replace("00:00:0", "00:0"),
    "many-hours": VTT.replace("00:00:0", "000:00:0"),
    "commas": VTT.replace(".000", ",000"),
    "crlf": VTT.replace("\n", "\r\n"),
    "old-mac": VTT.replace("\n", "\r"),
    "blanks-between-cues": VTT.replace("hello\n\n", "hello\n \n"),
    "blanks-then-name": VTT.replace("hello\n\n", "hello\n\t\nthe second\n"),
    "no-line-between-cues": VTT.replace("hello\n\n", "hello\n"),
    "no-final-newline": VTT.rstrip(),
    "empty-cues": VTT + "\n00:05.000 --> 00:06.000\n\n00:07.000 --> 00:08.000\n \n \n\n00:09.000 --> 00:10.000",
    "blanks-around": VTT.replace("hello\n", " \nhello\n \n"),
}


@pytest.mark.parametrize("form", VTT_FORMS)
def test_webvtt_as_it_is_found(form: str) -> None:
    assert [(word.strip("\u200e"), *times) for word, *times in words_of(VTT_FORMS[form], "vtt")] == HELLO_BYE


def test_more_forms_of_text() -> None:
    span = "00:00:00.000 --> 00:00:04.000\n"
    assert words_of(f"WEBVTT\n\n{span}ab\n \ncd\n\t\nef\n\n", "vtt") == [
        ("ab", 0, 1.333333),
        ("cd", 1.333333, 2.666667),
        ("ef", 2.666667, 4),
    ]
    assert [word for word, _, _ in words_of(f"1\n{span}I <3 you --> me > 7\n8\n", "srt")] == [
        "I",
        "<3",
        "you",
        "me",
        "7",
        "8",
    ]
    assert words_of(f"1\n{span}one\n2\n\n2\n00:05.0 --> 00:06.5\nx\n3\n00:07.25 --> 00:60,0\ny", "srt") == [
        ("one", 0, 3), ("2", 3, 4), ("x", 5, 6.5), ("y", 7.25, 60)
    ]  # fmt: skip
    assert words_of("WEBVTT\n\n00:01.000 --> 00:02.000\n \nx\n00:02.000 --> 00:03.000\n \ny\n", "vtt") == [
        ("x", 1, 2),
        ("y", 2, 3),
    ]
    assert len(words_of(SRT.replace("hello", "a\nb").replace("\n", "\r\r\n"), "srt")) == 3
    assert words_of("WEBVTT\n", "vtt") == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.SRT", "a.Vtt"])
def test_capitals_and_marks(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes((SRT if name == "a.SRT" else VTT).encode(encoding))
    assert read_words(tmp_path / name) == [Word(*word) for word in HELLO_BYE]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@pytest.mark.parametrize("separator", ["", " "])
def test_text_without_times_is_a_fault_that_names_its_lines(kind: str, separator: str) -> None:
    """Joined to the cue before, or passed over, its words would be lost or told wrong times."""
    head = ["WEBVTT", ""] if kind == "vtt" else []
    cues = ["1", "00:00:00.500 --> 00:00:07.000", "alpha beta", separator, "2", "gamma delta", separator]
    cues += ["3", "00:00:11.890 --> 00:00:16.320", "epsilon", separator, "4", "zeta", ""]
    first = len(head) + 5
    (place, fault), (last_place, last_fault) = faults_of("\n".join(head + cues), kind)
    assert place == f"lines {first} to {first + 1}"
    assert "'2 / gamma delta' is not part of a cue, expected a line 'hh:mm:ss" in fault
    assert (last_place, "'4 / zeta'" in last_fault) == (f"lines {first + 7} to {first + 8}", True)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\nb\n\nc", [("line 5", "'b' is not part"), ("line 7", "'c' is not part")]),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\n\n2\nb\n", [("lines 4 to 5", "'2 / b' is not part")]),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\n\n\nb\n", [("line 5", "'b' is not part")]),
        ("srt", "1\na\n2\n00:00:01,000 --> 00:00:02,000\nb", [("lines 1 to 2", "'1 / a' is not part")]),
        ("srt", "1\na\n00:00:01,000 --> 00:00:02,000\nb", [("lines 1 to 2", "'1 / a' is not part")]),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\n2\n", [("line 5", "'2' is not part")]),
        ("srt", "00:01,0 --> 00:02,0\na\n \nb\n \n00:03,0 --> 00:04,0\nc\n \n00:05,0 --> 00:06,0\nd", [("line 4", "'b' ")]),
        ("srt", VTT, [("line 1", "'WEBVTT' is not part")]),
        ("srt", "1\noops --> oops\nHi\n", [("lines 1 to 3", "is not part of a cue")]),
        ("srt", "1\n00:00:01,000 --> oops\nHi\n", [("cue 1 (line 2)", "'00:00:01,000 --> oops' is not a timing line")]),
        ("srt", "1\n00:00:01,000 -> 00:00:02,000\nHi", [("cue 1 (line 2)", "is not a timing line, expected 'hh:mm:ss,mmm")]),
        ("srt", "1\n00:00:01:000 --> 00:00:02:000\nHi", [("cue 1 (line 2)", "is not a timing line")]),
        ("srt", "1\n-00:00:01,000 --> 00:00:02,000\nHi", [("cue 1 (line 2)", "is not a timing line")]),
        ("srt", "1\n00:61:01,000 --> 00:62:02,000\nHi", [("cue 1 (line 2)", "is not a timing line")]),
        ("srt", "1\n00:01 --> 00:02\nHi", [("cue 1 (line 2)", "'00:01 --> 00:02' is not a timing line")]),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000 Hi you\n", [("cue 1 (line 2)", "its times are followed by 'Hi you', expected")]),
        ("srt", "1\n00:00:03,000 --> 00:00:02,500\nHi you\n", [("cue 1 (line 2)", "it ends at 2.5 s before it starts at 3.0 s")]),
        ("srt", "1\n999:00:03,000 --> 999:00:04,000\nHi\n", [("cue 1 (line 2)", "it ends at 3596404.0 s, expected 0 s to 1000000")]),
        ("vtt", "WEBVTT\n\n00:01.000 -> 00:02.500\nhi\n", [("cue 1 (line 3)", "'00:01.000 -> 00:02.500' is not a timing line")]),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:02\nhi\n", [("cue 1 (line 3)", "is not a timing line, expected 'hh:mm:ss.mmm")]),
        ("vtt", "WEBVTT\n\n\n00:01.000 --> 00:02.000\nhi\n\nho\nhu\n", [("lines 7 to 8", "'ho / hu' is not part of a cue")]),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n\nho\n", [("line 5", "'ho' is not part of a cue")]),
        ("vtt", "WEBVTT\n \nho\n \n00:01.000 --> 00:02.000\nhi", [("line 3", "'ho' is not part of a cue")]),
        ("vtt", VTT + "\nWEBVTT\nKind: captions\n\n", [("lines 9 to 10", "'WEBVTT / Kind: captions' is not part")]),
    ],
)  # fmt: skip
def test_lines_that_do_not_fit(kind: str, text: str, expected: list[tuple[str, str]]) -> None:
    found = faults_of(text, kind)
    assert [place for place, _ in found] == [place for place, _ in expected]
    assert all(part in fault for (_, fault), (_, part) in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.srt", "", r"a.srt' cannot be read: it has no cues; expected each to be a number.* Fix the file.$"),
        ("a.srt", " \n\n", "it has no cues"),
        ("a.vtt", "", "its first line is ''; expected 'WEBVTT'"),
        ("a.vtt", "00:01.000 --> 00:02.500\nhi\n", "its first line is '00:01.000 --> 00:02.500'; expected 'WEBVTT'"),
        ("a.vtt", VTT.replace("WEBVTT", "WEBVTTX"), "its first line is 'WEBVTTX'"),
        (
            "a.srt",
            SRT + "\n" + "\n\n".join("abcdefghijkl") + "\n",
            r"has 12 fault\(s\)\. line 9: 'a' .*'j' .*; and 2 more",
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_words(tmp_path / name)


ROLLED = [
    ("one", 0.08, 0.32),
    ("two", 0.32, 0.48),
    ("three", 0.48, 2.31),
    ("four", 2.32, 2.56),
    ("five", 2.56, 2.76),
    ("six", 2.76, 4),
]
ROLLING = [
    (0.08, 2.31, "\none<00:00:00.320><c> two</c><00:00:00.480><c> three</c>"),
    (2.31, 2.32, "one two three\n"),
    (2.32, 4.0, "one two three\nfour<00:00:02.560><c> five</c><00:00:02.760><c> six</c>"),
]  # fmt: skip


def test_rolling_captions_with_times_within() -> None:
    assert words_of(compose(ROLLING, "vtt"), "vtt") == ROLLED
    styled = [
        (start, end, f"{text}".replace("one", "<c.colorE5E5E5>one", 1) + "\n</c>") for start, end, text in ROLLING
    ]
    assert words_of(compose(styled, "vtt"), "vtt") == ROLLED


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@pytest.mark.parametrize(
    ("cues", "expected"),
    [
        (["a b", "a b\nc", "c\nd e", "d e\nf"], "a b c d e f"),
        (["a", "a\nb", "a\nb\nc", "b\nc\nd", "c\nd\ne"], "a b c d e"),
        (["a", "a b", "a b c", "a b c\nd", "a b c\nd e", "d e\nf"], "a b c d e f"),
        (["a", "a b", "a b c"], "a b c"),
        (["no", "no\nno", "no\nyes", "yes\nno"], "no no yes no"),
        (["a b c", "a b c\nd"], "a b c d"),
        (["", "a b", "a b\nc d", "", "e f", "e f\ng", "g\nh"], "a b c d e f g h"),
        (["a\nb", "a\nb\nc", "a\nb\nc", "b\nc\nd"], "a b c d"),
    ],
    ids=["two-lines", "three-lines", "growing", "growing-line", "said-again", "two-cues", "cleared", "twice"],
)
def test_rolling_captions_without_times_within(kind: str, cues: list[str], expected: str) -> None:
    rows = [(float(index), index + 1.0, text) for index, text in enumerate(cues)]
    found = words_of(compose(rows, kind), kind)
    assert [word for word, _, _ in found] == expected.split()
    starts = [start for _, start, _ in found]
    assert starts == sorted(starts)


def test_a_new_word_has_the_whole_span_of_its_cue() -> None:
    rows = [(0.0, 1.0, "a"), (1.0, 2.0, "a b"), (2.0, 5.0, "a b\nc d")]
    assert words_of(compose(rows, "srt"), "srt") == [("a", 0, 1), ("b", 1, 2), ("c", 2, 3.5), ("d", 3.5, 5)]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@pytest.mark.parametrize("gap_s", [0.0, 0.5])
@pytest.mark.parametrize(
    "cues",
    [
        ["No.", "No. Yes."],
        ["Who is there?", "No.", "No.\nYes.", "I do not know.", "Then go.", "Go?"],
        ["No.", "No. No.", "No. No. No."],
        ["I love you.", "I love you. I do.", "Good."],
        ["la la la", "la la la", "la la la", "la la la"],
        ["we will rock you", "we will rock you", "sing it", "we will rock you"],
        ["a b", "b c", "c d"],
        ["Come in.", "Come in. Sit.", "Thanks.", "Come in.", "Come in. Sit.", "Thanks."],
    ],
)
def test_what_is_said_again_stays(kind: str, gap_s: float, cues: list[str]) -> None:
    rows = [(2.0 * index, 2.0 * index + 2 - gap_s, text) for index, text in enumerate(cues)]
    assert [word for word, _, _ in words_of(compose(rows, kind), kind)] == " ".join(cues).split()


def test_repeated_lines_after_a_pause_are_no_rolling_captions() -> None:
    rows = [(0.0, 1.0, "a b c"), (3.0, 4.0, "a b c d"), (6.0, 7.0, "a b c d e")]
    assert len(words_of(compose(rows, "srt"), "srt")) == 12


plain_lines = st.integers(3, 12).flatmap(
    lambda count: st.lists(st.integers(1, 4), min_size=count, max_size=count).map(
        lambda sizes: [" ".join(f"w{number}x{index}" for index in range(size)) for number, size in enumerate(sizes)]
    )
)


@settings(deadline=None)
@given(plain_lines, st.sampled_from([2, 3]), st.booleans(), st.booleans(), st.sampled_from(["srt", "vtt"]))
def test_rolling_captions_say_what_the_plain_file_says(
    lines: list[str], visible: int, flashes: bool, blanks: bool, kind: str
) -> None:
    plain = [(2.0 * index, 2.0 * index + (1.99 if flashes else 2.0), line) for index, line in enumerate(lines)]
    rolling = []
    for index, (start, end, _) in enumerate(plain):
        shown = lines[max(0, index - visible + 1) : index + 1]
        rolling.append((start, end, "\n".join(["", *shown] if blanks and len(shown) < visible else shown)))
        if flashes:
            rolling.append((end, end + 0.01, "\n".join([*shown[-(visible - 1) :], *([""] if blanks else [])])))
    assert words_of(compose(rolling, kind), kind) == words_of(compose(plain, kind), kind)


@settings(deadline=None)
@given(plain_lines, st.sampled_from(["srt", "vtt"]))
def test_captions_that_grow_say_what_the_plain_file_says(lines: list[str], kind: str) -> None:
    words, rows, before = [], [], ""
    for line in lines:
        parts = line.split()
        for count in range(1, len(parts) + 1):
            now = float(len(words))
            rows.append((now, now + 1, f"{before}\n{' '.join(parts[:count])}"))
            words.append((parts[count - 1], now, now + 1))
        before = line
    assert words_of(compose(rows, kind), kind) == words


spoken_words = st.text(st.sampled_from("abzéж7'&<-"), min_size=1, max_size=8).filter(
    lambda word: any(letter.isalnum() for letter in word)
)
milliseconds = st.integers(0, 359_999_999)


@settings(deadline=None)
@given(
    st.lists(st.tuples(milliseconds, st.integers(0, 9999), spoken_words), min_size=1, max_size=8),
    st.sampled_from(["srt", "vtt"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", " ", "\t"]),
    st.booleans(),
)  # fmt: skip
def test_cues_come_back(cues: list[tuple[int, int, str]], kind: str, newline: str, blanks: str, is_named: bool) -> None:
    lines = ["WEBVTT", ""] if kind == "vtt" else [""]
    expected = []
    for number, (start, length, word) in enumerate(cues):
        start_s, end_s = start / 1000, (start + length) / 1000
        escaped = word.replace("&", "&amp;").replace("<", "&lt;")
        lines += [f"cue number {number}"] if is_named else []
        lines += [
            f"{moment(start_s)}{blanks} --> {moment(end_s)}{blanks}",
            f"{blanks}{escaped}",
            "" if number % 2 else blanks,
        ]
        expected.append((word, start_s, end_s))
    assert words_of(newline.join(lines), kind) == expected


@settings(deadline=None)
@given(st.text(st.sampled_from("12 \t\n\r:,.->aWEBVTT<&;/"), max_size=80), st.sampled_from(["srt", "vtt"]))
def test_every_text_is_read_or_refused(text: str, kind: str) -> None:
    for body in (text, f"WEBVTT\n\n00:01.000 --> 00:02.000\n{text}", f"1\n00:01,000 --> 00:02,000\nx\n\n2\n{text}"):
        try:
            entries = read_cues(body, kind)
        except ValueError:
            continue
        assert all(entry.fault or entry.start <= entry.end for entry in entries)
