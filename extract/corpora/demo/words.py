"""Words of the demo corpus: a small sentiment lexicon, timed by how fast the speaker talks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONTROL_HZ = 200  # rate of every track that drives a voice

LEXICON = {
    **dict.fromkeys(("wonderful", "fantastic", "delighted", "brilliant", "perfect", "amazing", "love"), 0.9),
    **dict.fromkeys(("happy", "great", "beautiful", "enjoyed", "excellent", "lovely", "glad"), 0.65),
    **dict.fromkeys(("good", "nice", "pleasant", "friendly", "hope", "fine", "welcome"), 0.35),
    **dict.fromkeys(("maybe", "table", "people", "morning", "city", "number", "window", "road"), 0.0),
    **dict.fromkeys(("boring", "slow", "tired", "odd", "late", "unsure", "cold"), -0.35),
    **dict.fromkeys(("sad", "bad", "upset", "lonely", "annoying", "worried", "angry"), -0.65),
    **dict.fromkeys(("terrible", "awful", "horrible", "hate", "disaster", "miserable", "disgusting"), -0.9),
}
FILLERS = ("the", "and", "it", "was", "so", "we", "that", "then", "really", "very")

_SPREAD = 0.18  # of the lexicon's valence about the speaker's


@dataclass(frozen=True)
class SpokenWord:
    """A word and when it is said, seconds from the start of the trial."""

    text: str
    start_s: float
    end_s: float

    @property
    def vowels(self) -> str:
        """One of "aeiou" per syllable, at least one.

        >>> SpokenWord("beautiful", 0, 1).vowels, SpokenWord("the", 0, 1).vowels
        ('eiu', 'e')
        """
        stem = self.text[:-1] if re.search(r"[aeiouy].*[^aeiouy]e$", self.text) else self.text
        return "".join(group[0] for group in re.findall(r"[aeiouy]+", stem)).replace("y", "i")


def lay_out_words(
    turns: list[tuple[float, float]],
    valence: NDArray[np.float64],
    arousal: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[SpokenWord]:
    """Fill the speaker's turns with words.

    Args:
        turns: (start, stop) of each, seconds.
        valence: (N,) in [-1, 1] at CONTROL_HZ, of what the speaker says.
        arousal: (N,) in [-1, 1] at CONTROL_HZ; syllables and pauses are shorter where it is high.
        rng: chooses among words.

    Returns:
        The words in order of time, none past the end of its turn.
    """
    words: list[SpokenWord] = []
    for start, stop in turns:
        moment = start
        while True:
            tick = min(int(moment * CONTROL_HZ), len(arousal) - 1)
            text = _choose(float(valence[tick]), rng)
            word = SpokenWord(text, moment, moment)
            pace = 1.0 - 0.42 * float(arousal[tick])
            end = moment + len(word.vowels) * 0.17 * pace
            if end > stop:
                break
            words.append(SpokenWord(text, round(moment, 3), round(end, 3)))
            moment = end + 0.08 * pace * rng.uniform(0.5, 1.5)
    return words


def _choose(valence: float, rng: np.random.Generator) -> str:
    if rng.random() < 0.35:
        return str(rng.choice(FILLERS))
    scores = np.array(list(LEXICON.values()))
    weights = np.exp(-0.5 * ((scores - 0.95 * valence) / _SPREAD) ** 2)
    return str(rng.choice(list(LEXICON), p=weights / weights.sum()))
