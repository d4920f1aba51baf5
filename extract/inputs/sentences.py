"""Sentences, as word pieces of a language model, with one row per word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.corpus.manifest import Manifest, Trial
from cache.errors import ShapeError
from cache.foreign import sha256_file
from cache.recipe import canonical_json
from extract.faces.settings import CropConfig
from extract.inputs.alignment import Alignment, align_shared
from extract.inputs.contract import GIVEN, Input
from extract.inputs.wordpieces import Sentences, Speller
from extract.words.transcripts import read_maker, read_words
from extract.words.words import Word, spread_words


@dataclass(frozen=True)
class SentenceInput(Input):
    """What a language model reads: a sentence as word pieces, and the word that each piece belongs to.

    Attributes:
        speller: the model's vocabulary.
        max_tokens: longest sentence, [CLS] and [SEP] included.
        pause_s: silence that ends a sentence if a transcript has no punctuation, seconds.
    """

    name = "sentences"
    media = ("words",)
    version = 1
    mixes = False  # sentences are padded to the longest one beside them

    speller: Speller
    max_tokens: int
    pause_s: float

    def check(self, batch: Tensor) -> None:
        """Check that a batch is (B, 2, max_tokens) int64: word pieces, and the number of each one's word from 1, or 0.

        Raises:
            ShapeError: if shape or dtype differ, a piece is not in the vocabulary, or words are not numbered in order.
        """
        if batch.dtype != torch.int64 or tuple(batch.shape[1:]) != (2, self.max_tokens):
            raise ShapeError(
                f"Sentences are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.int64 of shape (B, 2, {self.max_tokens})."
            )
        pieces, numbers = batch[:, 0], batch[:, 1]
        if ((pieces < 0) | (pieces >= self.speller.size)).any():
            raise ShapeError(
                f"Word pieces lie in [{int(pieces.min())}, {int(pieces.max())}], expected [0, {self.speller.size - 1}]. Use the "
                "backbone's own vocabulary."
            )
        so_far = numbers.cummax(dim=1).values
        in_order = ((numbers == 0) | (numbers == so_far)) & (numbers * (pieces == self.speller.pad) == 0)
        if (
            not in_order.all()
            or (numbers[:, 0] > 1).any()
            or (so_far.diff(dim=1) > 1).any()
            or (so_far[:, -1] < 1).any()
        ):
            raise ShapeError(
                "The words of a sentence are not numbered in order; expected 1, 2, … at the pieces of each word, else 0, and one word or more."
            )

    def upstream(self, manifest: Manifest, crops: CropConfig) -> dict[str, Any]:
        """The origin of the words: one recogniser, several, or transcripts that were given."""
        paths = [manifest.path(trial, "words") for trial in manifest.trials if "words" in trial.media]
        makers = {canonical_json(maker): maker for maker in map(read_maker, paths) if maker is not None}
        heard = [makers[key] for key in sorted(makers)]
        return {"words": heard or GIVEN}

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> SentenceSource:
        """Open the transcript of a trial."""
        return SentenceSource(manifest.path(trial, "words"), trial, self)

    def example(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """(B, 2, max_tokens) sentences of one artificial word each, of different lengths."""
        rng = np.random.default_rng(seed)
        spelled = ["".join(rng.choice(list("aeiounst"), 1 + item % 8)) for item in range(count)]
        words = [Word(f"{text}!", float(item), item + 1.0) for item, text in enumerate(spelled)]
        return Sentences(words, self.speller, self.max_tokens, self.pause_s).read(np.arange(count))


class SentenceSource:
    """Sentences of a trial's transcript; all frames of a word use its row.

    Attributes:
        unreached: after `load`, indices of the words that no frame falls into.
    """

    unreached: tuple[int, ...] = ()

    def __init__(self, path: Path, trial: Trial, sentence: SentenceInput) -> None:
        self._path, self._trial, self._sentence = path, trial, sentence

    def digest(self) -> str:
        """Digest of the transcript."""
        return sha256_file(self._path)

    def load(self) -> Alignment:
        """Read and spell the words; each frame uses the word that it falls into."""
        words = read_words(self._path)
        how = self._sentence
        self._sentences = Sentences(words, how.speller, how.max_tokens, how.pause_s)
        spread = spread_words(words, self._trial.clock)
        self.unreached = spread.unreached
        return align_shared(spread.rows, np.array(self._sentences.words, np.int64))

    def read(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, 2, max_tokens) int64."""
        return self._sentences.read(items)
