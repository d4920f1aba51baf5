"""Sentences: each word within its sentence, as word pieces of a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import ShapeError
from cache.manifest import Manifest, Trial
from extract.inputs.contract import Input
from extract.transcripts import read_words
from extract.video import sha256_file
from extract.wordpieces import Speller, WordRows
from extract.words import Word, spread_words


@dataclass(frozen=True)
class WordsInput(Input):
    """What a language model reads: one word within its sentence, as rows of word pieces.

    Attributes:
        speller: the model's vocabulary.
        max_tokens: longest sentence, [CLS] and [SEP] included.
        pause_s: silence that ends a sentence where a transcript has no punctuation, seconds.
    """

    media = ("words",)
    version = 1
    mixes = False  # the words of a sentence are computed together

    speller: Speller
    max_tokens: int
    pause_s: float

    def check(self, batch: Tensor) -> None:
        """Refuse anything but (B, 2, max_tokens) int64: the pieces of each word's sentence, and 1 at the word's own.

        Raises:
            ShapeError: if shape or dtype differ, a piece is not in the vocabulary, or a word has no piece of its own.
        """
        if batch.dtype != torch.int64 or tuple(batch.shape[1:]) != (2, self.max_tokens):
            raise ShapeError(
                f"Words are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.int64 of shape (B, 2, {self.max_tokens})."
            )
        pieces, own = batch[:, 0], batch[:, 1]
        if ((pieces < 0) | (pieces >= self.speller.size)).any():
            raise ShapeError(
                f"Word pieces lie in [{int(pieces.min())}, {int(pieces.max())}], expected [0, {self.speller.size - 1}]. Use the "
                "backbone's own vocabulary."
            )
        strange = (own != 0) & ((own != 1) | (pieces == self.speller.pad))
        if strange.any() or not own.any(dim=1).all():
            raise ShapeError(
                "A word's own pieces are not marked; expected 1 at one piece or more of its sentence, else 0."
            )

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> WordsSource:
        """The transcript of a trial."""
        return WordsSource(manifest.path(trial, "words"), trial, self)

    def example(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """(B, 2, max_tokens) made-up words in two sentences, of which the second one is longer."""
        rng = np.random.default_rng(seed)
        spelled = ["".join(rng.choice(list("aeiounst"), 1 + i % 8)) for i in range(count)]
        words = [Word(text + "." * (i == 1), float(i), i + 1.0) for i, text in enumerate(spelled)]
        return WordRows(words, self.speller, self.max_tokens, self.pause_s).read(np.arange(count))


class WordsSource:
    """Words of a trial's transcript within their sentences; the frames of a word share its row.

    Attributes:
        unreached: after `load`, indices of the words that no frame falls into.
    """

    unreached: tuple[int, ...] = ()

    def __init__(self, path: Path, trial: Trial, words: WordsInput) -> None:
        self._path, self._trial, self._words = path, trial, words

    def digest(self) -> str:
        """Digest of the transcript."""
        return sha256_file(self._path)

    def load(self) -> NDArray[np.int64]:
        """Read and spell the words; (T,) the word that each frame falls into, -1 where none is said."""
        words = read_words(self._path)
        self._rows = WordRows(words, self._words.speller, self._words.max_tokens, self._words.pause_s)
        spread = spread_words(words, self._trial.clock)
        self.unreached = spread.unreached
        return spread.rows

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, 2, max_tokens) int64."""
        return self._rows.read(rows)
