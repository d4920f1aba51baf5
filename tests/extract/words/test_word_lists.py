"""Word lists in JSON: the shapes that recognisers and aligners write, and words that they leave without times."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CorpusError
from extract.words.entries import MalformedError
from extract.words.transcripts import read_words
from extract.words.word_lists import read_word_lists

Spoken = list[tuple[str, float, float]]


def word(text: str, start: object = None, end: object = None, key: str = "word") -> dict[str, object]:
    times = {"start": start, "end": end}
    return {key: text, **{name: moment for name, moment in times.items() if moment is not None}}


def read(document: object) -> Spoken:
    entries = read_word_lists(document if isinstance(document, str) else json.dumps(document))
    assert [entry for entry in entries if entry.fault] == []
    return [(entry.text.strip(), entry.start, entry.end) for entry in entries]


A, B, C = word("a", 0.5, 1.0), word("b", 2.0, 2.5), word("c", 3.0, 3.5)
ABC = [("a", 0.5, 1.0), ("b", 2.0, 2.5), ("c", 3.0, 3.5)]


@pytest.mark.parametrize(
    "document",
    [
        {"words": [A, B, C], "segments": [{"start": 0, "end": 4, "text": " a b c"}], "duration": 4.0},
        {"words": None, "segments": [{"text": "a b c", "words": [A, B, C]}]},
        {"words": [], "segments": [{"text": "a b c", "words": [A, B, C]}]},
        {"segments": [{"words": [A, B]}, {"text": "", "words": []}, {"text": " "}, {"words": [C]}]},
        {"segments": [{"text": " a b c", "words": [word(f" {t}", s, e, "text") | {"confidence": 1} for t, s, e in ABC]}]},
        {"segments": [], "word_segments": [A, B, C]},
        {"words": [word(t, str(s), f" {e} ") for t, s, e in ABC]},
        {"words": [word("a", "5e-1", 1), word("b", "2", "+2.5"), C]},
        {"alternatives": [{"confidence": 200.5, "result": [A, B, C], "text": "a b c"}, {"confidence": 199.0, "result": [A]}]},
        {"alternatives": [{"confidence": 1.5, "result": [A]}, {"confidence": 20.5, "result": [A, B, C]}]},
        {"alternatives": [{"result": [A, B, C]}, {"result": [A], "confidence": 3}]},
        [{"alternatives": [{"confidence": 1, "text": ""}]}, {"alternatives": [{"confidence": 2, "result": [A, B, C]}]}],
        {"transcript": "a b c", "words": [{**w, "case": "success", "phones": [{"phone": "ah"}]} for w in (A, B, C)]},
        [[A, B], [C]],
    ],
    ids=[
        *("openai", "null-words", "no-words", "silent-segments", "whisper-timestamped", "word-segments", "texts", "powers"),
        *("vosk-best-first", "vosk-best-last", "vosk-without-confidence", "vosk-utterances", "gentle", "lists"),
    ],
)  # fmt: skip
def test_shapes(document: object) -> None:
    assert read(document) == ABC


@pytest.mark.parametrize("gap", ["\n", "", "\r\n\r\n", " ", "\n\x1e"])
@pytest.mark.parametrize(
    "documents",
    [
        [{"text": "a b", "result": [A, B]}, {"text": ""}, {"text": "c", "result": [C]}],
        [{"partial": ""}, {"partial": "a"}, {"result": [A, B]}, {"partial": "c"}, {"result": [C], "text": "c"}],
        [A, B, C],
        [{"segments": [{"words": [A]}]}, {"segments": [{"words": [B, C]}]}],
        [[A, B], [C]],
    ],
    ids=["vosk", "vosk-partial", "words", "whisper", "lists"],
)
def test_several_documents_in_one_file(documents: list[Any], gap: str) -> None:
    """As JSON lines, or printed one after the other, over several lines each."""
    assert read(gap.join(json.dumps(document) for document in documents)) == ABC
    assert read(gap.join(json.dumps(document, indent=2) for document in documents) + "\n") == ABC


def test_a_damaged_document_is_named_by_its_line() -> None:
    with pytest.raises(MalformedError, match=r"it is not JSON \(Expecting value: line 3 column 12"):
        read_word_lists(json.dumps({"result": [A]}) + '\n\n{"result": oops}')


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"words": [A, word("xy"), word("z"), C]}, [("a", 0.5, 1), ("xy", 1, 2.333333), ("z", 2.333333, 3), ("c", 3, 3.5)]),
        ({"words": [word("x"), A, word("y")]}, [("x", 0.5, 0.5), ("a", 0.5, 1), ("y", 1, 1)]),
        ([word("x"), A, word("y")], [("x", 0.5, 0.5), ("a", 0.5, 1), ("y", 1, 1)]),
        (
            {"segments": [{"start": 0, "end": 2, "words": [word("x"), A, word("y")]}, {"words": [B, word("z")], "end": 2.75}]},
            [("x", 0, 0.5), ("a", 0.5, 1), ("y", 1, 2), ("b", 2, 2.5), ("z", 2.5, 2.75)],
        ),
        (
            {"segments": [{"start": 0.75, "end": 0.9, "words": [word("x"), A, word("y")]}]},
            [("x", 0.5, 0.5), ("a", 0.5, 1), ("y", 1, 1)],
        ),
        ({"words": [word("a", 0, 3), word("x"), B]}, [("a", 0, 3), ("x", 2, 2), ("b", 2, 2.5)]),
        ({"words": [A, word("x", 1.5), B]}, [("a", 0.5, 1), ("x", 1.5, 2), ("b", 2, 2.5)]),
        ({"words": [A, word("w"), word("x", 1.5), word("y"), B]}, [*ABC[:1], ("w", 1, 1.5), ("x", 1.5, 1.75), ("y", 1.75, 2), *ABC[1:2]]),
        ({"words": [A, word("x", None, 1.25), word("y"), B]}, [*ABC[:1], ("x", 1, 1.25), ("y", 1.25, 2), *ABC[1:2]]),
        ({"words": [A, word("x", 9), B]}, [*ABC[:1], ("x", 1, 2), *ABC[1:2]]),
        ({"words": [A, word("x", 9)]}, [*ABC[:1], ("x", 9, 9)]),
        ({"words": [A, {"word": "x", "start": None, "end": None}, B]}, [*ABC[:1], ("x", 1, 2), *ABC[1:2]]),
        (
            {"segments": [{"words": [A]}, {"start": 1, "end": 2, "text": " 15 16", "words": []}, {"words": [word("x")]}, {"words": [B]}]},
            [*ABC[:1], ("15", 1, 1.5), ("16", 1.5, 2), ("x", 2, 2), *ABC[1:2]],
        ),
        ({"segments": [{"words": [word("x")]}, {"words": [A]}]}, [("x", 0.5, 0.5), *ABC[:1]]),
        ({"segments": [{"start": -3, "end": "late", "words": [word("x"), A]}]}, [("x", 0.5, 0.5), *ABC[:1]]),
        ({"segments": [{"start": "0.25", "words": [word("x"), A]}]}, [("x", 0.25, 0.5), *ABC[:1]]),
    ],
    ids=[
        *("letters", "ends", "list", "segments", "narrow-segment", "no-room", "start-only", "start-within", "end-only"),
        *("start-outside", "start-last", "null", "segment-without-words", "first-segment", "wrong-span", "span-as-text"),
    ],
)  # fmt: skip
def test_words_without_times_stand_between_their_neighbours(document: object, expected: Spoken) -> None:
    assert read(document) == expected


def test_they_are_counted_in_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"words": [A, word("x"), B, word("y"), C]}))
    with pytest.warns(UserWarning, match=r"a.json' has no times for 2 of 5 words; they are placed between") as caught:
        words = read_words(path)
    assert len(caught) == 1
    assert [one.text for one in words] == ["a", "x", "b", "y", "c"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"words": [word("x"), word("y", 1)]}, r"none of its 2 word\(s\) has a start and an end; .*SetWords\(True\)"),
        ({"segments": [{"text": " x y", "start": 0, "end": 1}]}, r"none of its 2 word\(s\) .* word_timestamps=True"),
        ({"text": "one two"}, r"none of its 2 word\(s\)"),
        ({"words": [A, word("x", -1)]}, r"has 1 fault\(s\)\. words\[1\]: the start is -1, expected 0 to 1000000 seconds"),
        ({"words": [A, word("x", "soon", 2)]}, r"words\[1\]: the start is 'soon', expected 0 to 1000000 seconds"),
        ({"words": [A, word("x", "1e999", 2)]}, r"words\[1\]: the start is inf, expected"),
        ({"words": [A, word("x", "nan", 2)]}, r"words\[1\]: the start is 'nan', expected 0 to 1000000 seconds"),
        ({"words": [A, word("x", 2, 1)]}, r"words\[1\]: it ends at 1 s before it starts at 2 s"),
        ({"words": [A, word("x", [1], 2)]}, r"words\[1\]: the start is \[1\], expected 0 to 1000000 seconds"),
        ({"words": [A, {"case": "not-found-in-audio"}]}, r"words\[1\]: the text is None, expected a word"),
        ({"words": [A, {"word": "\ud800", "start": 1, "end": 2}]}, r"words\[1\]: the text is '.ud800', expected a word"),
        ({"segments": [{"words": [A]}, {"words": [word("", 1, 2)]}]}, r"segments\[1\].words\[0\]: the text is ''"),
        ([{"result": [A]}, {"alternatives": [{"result": [word("x", 3, 2)]}]}], r"\[1\].alternatives\[0\].result\[0\]: it ends"),
        ({"words": None}, "the document has no list 'words'"),
        ({"words": "a b"}, "the document has no list 'words'"),
        ({"alternatives": [3]}, r"alternatives\[0\] has no list"),
        ({"transcription": []}, "the document has no list"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, document: object, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CorpusError, match=message) as caught:
        read_words(path)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("depth", [500, 900, 5_000, 200_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"segments": [', "]}"), ('{"words": [{"word": [', "]}]}")]
)
def test_deep_nesting_is_refused_in_one_sentence(tmp_path: Path, depth: int, opening: str, closing: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(opening * depth + '"x"' + closing * depth)
    with pytest.raises(CorpusError, match=r"nested too deeply|has no list|has 1 fault"):
        read_words(path)


moments = st.integers(0, 60_000).map(lambda milliseconds: milliseconds / 1000)
times = st.one_of(st.just([]), moments.map(lambda start: [start]), st.tuples(moments, moments).map(sorted))
mixed = st.lists(st.tuples(st.text("abc", min_size=1, max_size=5), times), min_size=1, max_size=12)


@settings(deadline=None)
@given(mixed, st.one_of(st.none(), moments), st.one_of(st.none(), moments), st.booleans())
def test_words_with_times_never_move(
    words: list[tuple[str, list[float]]], start: float | None, end: float | None, in_order: bool
) -> None:
    """And in a file that goes forwards, the words stay in its order, whatever starts some of them have without an end."""
    spans = [span for _, span in words if len(span) == 2]
    if not spans:
        return
    known = iter(sorted(spans) if in_order else spans)
    items = [word(text, *(next(known) if len(span) == 2 else span)) for text, span in words]
    entries = read_word_lists(json.dumps({"segments": [{"start": start, "end": end, "words": items}]}))
    assert [entry.text for entry in entries] == [text for text, _ in words]
    for entry, item in zip(entries, items, strict=True):
        assert entry.placed == ("end" not in item)
        assert entry.placed or (entry.start, entry.end) == (item["start"], item["end"])
        assert 0 <= entry.start <= entry.end
    if in_order:
        starts = [entry.start for entry in entries]
        assert starts == sorted(starts)


_KEYS = ["word", "words", "result", "segments", "alternatives", "text", "start", "end", "confidence", "partial"]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**400), 10**400) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(_KEYS), inner),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(json_values)
def test_every_document_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            words = read_words(path)
        except CorpusError:
            return
    assert all(0 <= one.start_s <= one.end_s for one in words)
