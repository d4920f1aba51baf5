"""Punctuation for recognised words, to separate sentences, as in [Zhang2023, Section 3.2].

The paper's package deepmultilingualpunctuation does not run with transformers 5 (it passes a removed argument), so its
model is run directly by the same rules: chunks of 230 words that overlap by five, and a word gets the mark of its last
word piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cache.errors import ShapeError, WeightsError
from extract.extras import import_extra
from extract.weights.hub import find_model, quiet
from extract.words.words import Word

MODEL = "oliverguhr/fullstop-punctuation-multilang-large"
"""Tagger of English, German, French, Italian and Dutch [Guhr2021], XLM-RoBERTa large, MIT."""

CHUNK, OVERLAP = 230, 5  # words
MARKS = frozenset(("", ".", ",", "?", "-", ":"))
_NO_MARK = "0"

Restorer = Callable[[Sequence[str]], list[str]]
"""Returns the mark that follows each word: one of MARKS."""


def restore_punctuation(words: Sequence[Word], restorer: Restorer) -> list[Word]:
    """Append a mark to each word, replacing those that it already ends with.

    Args:
        words: of one trial, by start.
        restorer: from `open_restorer`.

    Raises:
        ShapeError: if the restorer does not return one known mark per word.

    >>> restore_punctuation([Word("well", 0, 1), Word("yes.", 1, 2)], lambda texts: [",", ""])
    [Word(text='well,', start_s=0, end_s=1), Word(text='yes', start_s=1, end_s=2)]
    """
    bare = [word.text.rstrip(".,;:!?") or word.text for word in words]
    marks = restorer(bare) if bare else []
    if len(marks) != len(words) or not MARKS.issuperset(marks):
        raise ShapeError(
            f"The punctuation restorer gave {len(marks)} marks ({sorted(set(marks))}) for {len(words)} words; expected one of "
            f"{sorted(MARKS)} each. Use another model."
        )
    return [replace(word, text=text + mark) for word, text, mark in zip(words, bare, marks, strict=True)]


def open_restorer(model: str = MODEL) -> Restorer:
    """The paper's restorer, or another token classifier with the same labels.

    Args:
        model: a folder, or a name on the Hugging Face hub.

    Raises:
        MissingFileError: if a path does not exist.
        WeightsError: if it cannot be downloaded, or is not a token classifier with these labels.
        SettingError: if transformers is not installed.
    """
    transformers = import_extra("transformers", "punctuation", "Punctuation")
    folder = find_model(model, ("*.model", "added_tokens.json"), (MODEL,))
    with quiet(transformers.utils.logging):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            network = transformers.AutoModelForTokenClassification.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise WeightsError(
                f"The punctuation model '{model}' cannot be read ({error}). Fetch it again, and run pip "
                "install 'avfusion[punctuation]'."
            ) from error
    labels = set(network.config.id2label.values())
    if not labels <= MARKS - {""} | {_NO_MARK}:
        raise WeightsError(
            f"The model '{model}' has the labels {', '.join(sorted(labels))}; expected the marks . , ? - : and 0. Use '{MODEL}'."
        )
    return _Tagger(tokenizer, network.eval(), folder)


class _Tagger:
    """A token classifier over words."""

    def __init__(self, tokenizer: Any, network: Any, folder: Path) -> None:
        self._tokenizer, self._network, self.folder = tokenizer, network, folder
        self._longest = min(512, tokenizer.model_max_length)  # word pieces

    def __call__(self, words: Sequence[str]) -> list[str]:
        marks: list[str] = []
        for chunk, kept in chunks(words):
            marks += self._tag(chunk)[:kept]
        return marks

    @torch.inference_mode()
    def _tag(self, words: Sequence[str]) -> list[str]:
        encoding = self._tokenizer(list(words), is_split_into_words=True, return_tensors="pt", verbose=False)
        if encoding["input_ids"].shape[1] > self._longest and len(words) > 1:
            half = len(words) // 2
            return self._tag(words[:half]) + self._tag(words[half:])
        pieces = {name: tensor[:, : self._longest] for name, tensor in encoding.items()}
        labels = self._network(**pieces).logits[0].argmax(1).tolist()
        marks = [""] * len(words)
        for label, word in zip(labels, encoding.word_ids(), strict=False):
            if word is not None:
                marks[word] = self._network.config.id2label[label].replace(_NO_MARK, "")
        return marks


def chunks(words: Sequence[str]) -> Iterator[tuple[Sequence[str], int]]:
    """Overlapping chunks of words, and how many words at the start of each chunk keep their marks.

    >>> [(len(chunk), kept) for chunk, kept in chunks(["a"] * 500)]
    [(230, 225), (230, 225), (50, 50)]
    >>> [(len(chunk), kept) for chunk, kept in chunks(["a"] * 230)]
    [(230, 230)]
    """
    start = 0
    while start + CHUNK < len(words):
        yield words[start : start + CHUNK], CHUNK - OVERLAP
        start += CHUNK - OVERLAP
    yield words[start:], len(words) - start
