"""Recognition: utterances, pocketsphinx on real speech, Vosk behind a stand-in of its interface."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from cache.errors import MissingFileError, SettingError, UnknownNameError
from extract.speech import recognition as speech
from extract.speech.recognition import RATE_HZ, open_recogniser, transcribe
from extract.words.transcripts import read_words

LIBRI = Path(__file__).parents[4] / "shared/media/speech_libri.wav"
needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed"
)


class Endpointer:
    """Speech is whatever is not zero; the interface of pocketsphinx's."""

    frame_bytes = 960

    def __init__(self) -> None:
        self.in_speech, self.speech_start, self._time_s = False, 0.0, 0.0

    def process(self, frame: bytes) -> bytes | None:
        loud, was = any(frame), self.in_speech
        if loud and not was:
            self.speech_start = self._time_s
        self.in_speech = loud
        self._time_s += len(frame) / 2 / RATE_HZ
        return frame if loud or was else None

    def end_stream(self, frame: bytes) -> bytes | None:
        speech = self.process(frame)
        self.in_speech = False
        return speech


def utterances(samples: np.ndarray) -> list[tuple[float, float]]:
    return [(round(s, 3), len(pcm) / 2 / RATE_HZ) for s, pcm in speech._utterances(Endpointer(), samples.astype("f4"))]


def test_utterances_end_at_silences_and_at_the_end_of_the_sound() -> None:
    sound = np.zeros(480 * 100)
    sound[480 * 10 : 480 * 20] = 0.5
    sound[480 * 60 :] = 0.5
    assert utterances(sound) == [(0.3, 0.33), (1.8, 1.2)]
    assert utterances(sound[:-7]) == [(0.3, 0.33), (1.8, pytest.approx(1.2 - 7 / RATE_HZ))]
    assert utterances(np.zeros(5000)) == utterances(np.zeros(0)) == []


def test_endless_speech_is_cut_at_its_quietest_moments_without_losing_any() -> None:
    sound = np.full(RATE_HZ * 75, 0.5)
    sound[RATE_HZ * 24 : RATE_HZ * 24 + 960] = 0.01
    found = utterances(sound)
    assert found[0] == (0.0, pytest.approx(24.015, abs=0.03))
    assert all(length <= 30.1 for _, length in found)
    for (start, length), (after, _) in pairwise(found):
        assert after == pytest.approx(start + length, abs=1e-3)
    assert found[-1][0] + found[-1][1] == pytest.approx(75)


@needs_sphinx
def test_pocketsphinx_hears_real_speech(tmp_path: Path) -> None:
    if not LIBRI.is_file():
        pytest.skip("no speech here")
    samples, _ = soundfile.read(LIBRI, dtype="float32", start=int(11.9 * RATE_HZ), stop=int(14.7 * RATE_HZ))
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    words = transcribe(tmp_path / "a.wav", tmp_path / "a.json", open_recogniser("pocketsphinx"))
    texts = [word.text for word in words]
    assert {"give", "me", "an", "opportunity", "of"} <= set(texts)
    spoken = words[texts.index("opportunity")]
    assert 1.2 < spoken.start_s < 1.6
    assert 1.9 < spoken.end_s < 2.4
    assert not any(mark in text for text in texts for mark in "<[(")
    assert read_words(tmp_path / "a.json") == words


@needs_sphinx
def test_silence_has_no_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    assert transcribe(tmp_path / "a.wav", tmp_path / "a.json", open_recogniser("pocketsphinx")) == []
    assert read_words(tmp_path / "a.json") == []


class Kaldi:
    """Hears one word in every 8000 samples, and whatever is left only in its final result."""

    def __init__(self, model: object, rate_hz: float) -> None:
        assert rate_hz == RATE_HZ
        self.words, self.blocks, self.heard, self.pending = False, [], 0, []

    def SetWords(self, wanted: bool) -> None:
        self.words = wanted

    def AcceptWaveform(self, block: bytes) -> int:
        assert len(block) <= 8000
        self.pending.append({"word": f"w{self.heard}", "start": self.heard / 4, "end": self.heard / 4 + 0.2, "conf": 1})
        self.heard += 1
        return int(len(self.pending) == 2)

    def Result(self) -> str:
        assert self.words
        result, self.pending = {"result": self.pending, "text": "…"}, []
        return json.dumps(result if result["result"] else {"text": ""})

    FinalResult = Result


def test_vosk_is_fed_in_blocks_and_asked_for_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    vosk = SimpleNamespace(SetLogLevel=lambda level: None, Model=opened.append, KaldiRecognizer=Kaldi)
    monkeypatch.setitem(sys.modules, "vosk", vosk)
    soundfile.write(tmp_path / "a.wav", np.zeros(4000 * 5), RATE_HZ)
    recogniser = open_recogniser(f"vosk:{tmp_path}")
    for name in "ab":  # one model hears several recordings
        words = transcribe(tmp_path / "a.wav", tmp_path / f"{name}.json", recogniser)
        assert [(word.text, word.start_s, word.end_s) for word in words] == [
            (f"w{i}", i / 4, pytest.approx(i / 4 + 0.2)) for i in range(5)
        ]
    assert opened == [str(tmp_path)]


def test_a_folder_that_is_no_vosk_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise Exception("Failed to create a model")

    monkeypatch.setitem(sys.modules, "vosk", SimpleNamespace(SetLogLevel=lambda level: None, Model=fail))
    with pytest.raises(SettingError, match=r"Vosk cannot read the model .* \(Failed to create a model\)"):
        open_recogniser(f"vosk:{tmp_path}")
    with pytest.raises(MissingFileError, match="No Vosk model .*/none'.*Get one from https://alphacephei"):
        open_recogniser(f"vosk:{tmp_path}/none")


def test_recognisers_that_do_not_exist_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sphinx", "vosk", "vosk:"):
        with pytest.raises(UnknownNameError, match="expected 'pocketsphinx' or 'vosk:<folder of a model>'"):
            open_recogniser(name)
    for library, name in (("pocketsphinx", "pocketsphinx"), ("vosk", "vosk:/model")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(SettingError, match=rf"pip install 'avfusion\[{library}\]'"):
            open_recogniser(name)
