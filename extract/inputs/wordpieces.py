"""Word pieces: how a BERT spells words, and how the sentences of a trial are laid out for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import WeightsError
from cache.foreign import sha256_file
from extract.extras import import_extra
from extract.words.words import Word, split_sentences

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Pieces(NamedTuple):
    """One word, spelled.

    Attributes:
        ids: its word pieces.
        counts: whether each piece is part of the word's vector; punctuation at either end is not.
    """

    ids: list[int]
    counts: list[bool]


class Speller:
    """Splits words into the word pieces of a BERT.

    Attributes:
        sha256: of the files that define it, hex; for `letters`, of its pieces.
        pad, unknown, cls, sep: ids of the special pieces.
        size: number of pieces known.
    """

    def __init__(self, tokenizer: Any, sha256: str) -> None:
        self._tokenizer = tokenizer
        self.sha256 = sha256
        self.pad, self.unknown, self.cls, self.sep = (tokenizer.token_to_id(piece) for piece in _SPECIAL)
        self.size = tokenizer.get_vocab_size()

    @classmethod
    def load(cls, folder: Path) -> Speller:
        """Read `tokenizer.json`, or `vocab.txt` of an older model.

        Raises:
            WeightsError: if there is neither, or it is not the vocabulary of a BERT.
            SettingError: if the library `tokenizers` is not installed.
        """
        library = import_extra("tokenizers", "text", "Backbone 'bert'")
        whole = folder / "tokenizer.json"
        plain = folder / "vocab.txt"
        try:
            if whole.is_file():
                speller = cls(library.Tokenizer.from_file(str(whole)), sha256_file(whole))
            elif plain.is_file():
                speller = cls(*_from_vocabulary(library, plain, folder / "tokenizer_config.json"))
            else:
                raise WeightsError(
                    f"'{folder}' has neither tokenizer.json nor vocab.txt; expected a whole model folder."
                )
        except WeightsError:
            raise
        except Exception as error:  # the library has no narrower type
            raise WeightsError(
                f"The vocabulary in '{folder}' cannot be read ({error}). Fetch the model again."
            ) from error
        if None in (speller.pad, speller.unknown, speller.cls, speller.sep):
            raise WeightsError(
                f"The vocabulary in '{folder}' lacks one of {', '.join(_SPECIAL)}; expected the vocabulary of a BERT. Give another model."
            )
        speller._tokenizer.no_padding()
        speller._tokenizer.no_truncation()
        return speller

    @classmethod
    def letters(cls) -> Speller:
        """A vocabulary of single letters, digits and marks, for networks without training.

        Raises:
            SettingError: if the library `tokenizers` is not installed.
        """
        library = import_extra("tokenizers", "text", "Backbone 'bert'")
        single = [*ascii_lowercase, *digits]
        pieces = [*_SPECIAL, *single, *(f"##{letter}" for letter in single), *punctuation]
        tokenizer = library.BertWordPieceTokenizer({piece: i for i, piece in enumerate(pieces)}, lowercase=True)
        return cls(tokenizer, hashlib.sha256("\n".join(pieces).encode()).hexdigest())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which `load` reads."""
        self._tokenizer.save(str(folder / "tokenizer.json"))

    def spell(self, words: Sequence[str]) -> list[Pieces]:
        """Word pieces of each word; a word without any known piece becomes one unknown piece."""
        found: list[Pieces] = [Pieces([], []) for _ in words]
        encoding = self._tokenizer.encode(list(words), is_pretokenized=True, add_special_tokens=False)
        for piece, token, word in zip(encoding.ids, encoding.tokens, encoding.word_ids, strict=True):
            found[word].ids.append(piece)
            found[word].counts.append(any(letter.isalnum() for letter in token))
        return [Pieces(ids, _without_ends(counts)) if ids else Pieces([self.unknown], [True]) for ids, counts in found]


def _without_ends(spoken: list[bool]) -> list[bool]:
    """Everything from the first to the last piece with a letter or digit; everything if there are none.

    >>> _without_ends([False, True, False, True, False])
    [False, True, True, True, False]
    """
    if not any(spoken):
        return [True] * len(spoken)
    first = spoken.index(True)
    last = len(spoken) - 1 - spoken[::-1].index(True)
    return [first <= i <= last for i in range(len(spoken))]


def _from_vocabulary(library: Any, vocabulary: Path, settings: Path) -> tuple[Any, str]:
    """The tokenizer of a folder that only lists its pieces; without settings, an uncased one."""
    known = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    lower = bool(known.get("do_lower_case", True))
    tokenizer = library.BertWordPieceTokenizer(library.models.WordPiece.read_file(str(vocabulary)), lowercase=lower)
    return tokenizer, hashlib.sha256(f"{sha256_file(vocabulary)} lowercase={lower}".encode()).hexdigest()


class Sentences:
    """The words of a trial as a BERT reads them: sentence by sentence.

    A sentence is `[CLS] pieces [SEP]`; one that is too long is cut between words into parts as long as possible, and a
    single word that is too long is truncated.

    Attributes:
        words: number of words of each sentence; together they are the trial's words, in order.
    """

    def __init__(self, words: Sequence[Word], speller: Speller, max_tokens: int, pause_s: float) -> None:
        """Spell a trial's words.

        Args:
            words: by start.
            speller: of the network.
            max_tokens: longest sentence, [CLS] and [SEP] included.
            pause_s: see `extract.words.words.split_sentences`.
        """
        self._speller, self._length = speller, max_tokens
        self.words: list[int] = []
        self._rows: list[NDArray[np.int64]] = []
        for sentence in split_sentences(words, pause_s):
            spelled = speller.spell([words[index].text for index in sentence])
            for part in _parts(spelled, max_tokens - 2):
                self.words.append(len(part))
                self._rows.append(self._lay_out(part))

    def _lay_out(self, spelled: list[Pieces]) -> NDArray[np.int64]:
        """(2, tokens) pieces, and the number from 1 of the word whose vector includes each of them; 0 for none."""
        ids = [self._speller.cls]
        numbers = [0]
        for number, word in enumerate(spelled, start=1):
            ids += word.ids
            numbers += [number * counts for counts in word.counts]
        return np.array([[*ids, self._speller.sep], [*numbers, 0]], np.int64)

    def read(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, 2, max_tokens): the pieces of these sentences, padded, and the number of the word that each belongs to."""
        batch = np.zeros((len(items), 2, self._length), np.int64)
        batch[:, 0] = self._speller.pad
        for row, index in zip(batch, items.tolist(), strict=True):
            found = self._rows[index]
            row[:, : found.shape[1]] = found
        return batch


def _parts(spelled: list[Pieces], longest: int) -> Iterator[list[Pieces]]:
    """Consecutive words of at most `longest` pieces together."""
    part: list[Pieces] = []
    room = longest
    for ids, counts in spelled:
        word = Pieces(ids[:longest], _without_ends(counts[:longest]))
        if len(word.ids) > room:
            yield part
            part = []
            room = longest
        part.append(word)
        room -= len(word.ids)
    yield part
