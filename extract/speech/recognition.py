"""Speech recognition: pocketsphinx with the model in its wheel, or Vosk with the folder of a model.

Vosk is the recogniser of [Zhang2023, Section 3.2]; their code passes the whole sound in one call and never reads the final
result, which loses words. pocketsphinx needs only its package and is much less accurate.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import MissingFileError, SettingError, UnknownNameError
from extract.extras import import_extra
from extract.media.audio import Samples, open_sound
from extract.speech.punctuation import Restorer, restore_punctuation
from extract.words.transcripts import write_words
from extract.words.words import Word

RATE_HZ = 16_000
VOSK_BLOCK = 4000  # samples
LONGEST_UTTERANCE_S = 30.0
SEARCHED_S = 10.0  # utterances that are too long are cut at the quietest moment of this last part
_VAD_MODE = 3  # the strictest mode; others miss the pauses of read speech
_SPHINX_FRAME_S = 0.01
_VARIANT = re.compile(r"\(\d+\)$")  # number of a pronunciation, as in and(2)

Recogniser = Callable[[Samples], list[Word]]
"""Maps (S,) float32 mono in [-1, 1] at 16 kHz to words."""


def open_recogniser(name: str) -> Recogniser:
    """Open a speech recogniser, which may take seconds and gigabytes; the same sound gives the same words.

    Args:
        name: "pocketsphinx" (US English), or "vosk:" and the folder of a Vosk model.

    Raises:
        UnknownNameError: if the recogniser does not exist.
        MissingFileError: if the model does not exist.
        SettingError: if the recogniser is not installed or its model cannot be read.
    """
    kind, _, model = name.partition(":")
    if name == "pocketsphinx":
        library = import_extra("pocketsphinx", "pocketsphinx", "Recognition by 'pocketsphinx'")
        return functools.partial(_by_pocketsphinx, library)
    if kind == "vosk" and model:
        return _open_vosk(Path(model).expanduser())
    raise UnknownNameError(f"Unknown recogniser '{name}'; expected 'pocketsphinx' or 'vosk:<folder of a model>'.")


def transcribe(
    path: Path,
    transcript: Path,
    recogniser: Recogniser,
    restorer: Restorer | None = None,
    made_by: dict[str, str] | None = None,
) -> list[Word]:
    """Recognise the words of a recording and write them as our JSON.

    Args:
        path: a video or sound file.
        transcript: the file to write, `.json`.
        recogniser: see `open_recogniser`.
        restorer: adds punctuation; None for none.
        made_by: names of both, recorded with the words.

    Returns:
        The words as written, by start, timed from the first picture.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if the file is damaged or has no sound stream.
    """
    words = recogniser(open_sound(path, RATE_HZ))
    if restorer is not None:
        words = restore_punctuation(words, restorer)
    write_words(transcript, words, made_by)
    return words


def _by_pocketsphinx(library: Any, samples: Samples) -> list[Word]:
    decoder = library.Decoder(samprate=RATE_HZ, loglevel="FATAL")  # a new one each time, because it adapts to the sound
    words = []
    for start_s, pcm in _utterances(library.Endpointer(vad_mode=_VAD_MODE, sample_rate=RATE_HZ), samples):
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        for segment in decoder.seg() if decoder.hyp() is not None else ():
            if segment.word[0] not in "<[+":  # silence, noise
                frames = segment.start_frame, segment.end_frame + 1
                times = (round(start_s + frame * _SPHINX_FRAME_S, 3) for frame in frames)
                words.append(Word(_VARIANT.sub("", segment.word), *times))
    return words


def _utterances(endpointer: Any, samples: Samples) -> Iterator[tuple[float, bytes]]:
    """Utterances with their starts in seconds, cut at silences, at the latest after `LONGEST_UTTERANCE_S`."""
    step = endpointer.frame_bytes
    longest = round(LONGEST_UTTERANCE_S * RATE_HZ) * 2
    pending = bytearray()
    yielded_s = 0.0  # of the current stretch of speech
    for start in range(0, len(samples), step // 2):
        frame = _to_pcm(samples[start : start + step // 2])
        last = start + step // 2 >= len(samples)
        speech = endpointer.end_stream(frame) if last else endpointer.process(frame)
        pending += speech or b""
        if pending and (last or not endpointer.in_speech):
            yield endpointer.speech_start + yielded_s, bytes(pending)
            pending.clear()
            yielded_s = 0.0
        elif len(pending) >= longest:
            cut = _find_quietest(pending, step)
            yield endpointer.speech_start + yielded_s, bytes(pending[:cut])
            yielded_s += cut / 2 / RATE_HZ
            del pending[:cut]


def _find_quietest(pcm: bytearray, step: int) -> int:
    """Offset in bytes of the middle of the quietest frame within the last `SEARCHED_S`."""
    first = len(pcm) - round(SEARCHED_S * RATE_HZ) * 2 // step * step
    frames = np.frombuffer(bytes(pcm[first : first + (len(pcm) - first) // step * step]), "<i2").reshape(-1, step // 2)
    power = np.square(frames.astype(np.float64)).mean(axis=1)
    return first + int(power.argmin()) * step + step // 4 * 2


def _open_vosk(model: Path) -> Recogniser:
    library = import_extra("vosk", "vosk", "Recognition by 'vosk'")
    if not model.is_dir():
        raise MissingFileError(
            f"No Vosk model '{model}'; expected the unpacked folder of a model. Get one from "
            "https://alphacephei.com/vosk/models (the paper's is vosk-model-en-us-0.22) and give 'vosk:<its folder>'."
        )
    library.SetLogLevel(-1)
    try:
        opened = library.Model(str(model))
    except Exception as error:  # the library has no narrower type
        raise SettingError(
            f"Vosk cannot read the model '{model}' ({error}); expected an unpacked model with the folders am and conf. "
            "Unpack it again."
        ) from error
    return functools.partial(_by_vosk, library, opened)


def _by_vosk(library: Any, model: Any, samples: Samples) -> list[Word]:
    recogniser = library.KaldiRecognizer(model, RATE_HZ)
    recogniser.SetWords(True)
    results = []
    for start in range(0, len(samples), VOSK_BLOCK):
        if recogniser.AcceptWaveform(_to_pcm(samples[start : start + VOSK_BLOCK])):
            results.append(recogniser.Result())
    results.append(recogniser.FinalResult())
    heard = [word for result in results for word in json.loads(result).get("result", [])]
    return [Word(word["word"], round(word["start"], 3), round(word["end"], 3)) for word in heard]


def _to_pcm(samples: NDArray[np.float32]) -> bytes:
    """16-bit little-endian samples."""
    return np.rint(samples * 32767).astype("<i2").tobytes()
