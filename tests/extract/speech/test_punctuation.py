"""Restoring punctuation, with stand-ins and with an untrained tagger of the real kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cache.errors import MissingFileError, ShapeError, WeightsError
from extract.inputs.wordpieces import Speller
from extract.speech.punctuation import MARKS, MODEL, chunks, open_restorer, restore_punctuation
from extract.weights import hub as pretrained
from extract.words.words import Word, split_sentences

LABELS = {0: "0", 1: ".", 2: ",", 3: "?", 4: "-", 5: ":"}


def test_marks_make_sentences() -> None:
    words = [Word(text, i, i + 1) for i, text in enumerate(["are", "you", "there", "no", "i", "left."])]
    restored = restore_punctuation(words, lambda texts: ["", "", "?", ",", "", "."])
    assert [word.text for word in restored] == ["are", "you", "there?", "no,", "i", "left."]
    assert [(word.start_s, word.end_s) for word in restored] == [(i, i + 1) for i in range(6)]
    assert split_sentences(restored, 1.0) == [range(3), range(3, 6)]
    assert restore_punctuation([], lambda texts: []) == []


@pytest.mark.parametrize("marks", [[""], ["", ";"]])
def test_a_restorer_that_answers_nonsense_is_refused(marks: list[str]) -> None:
    with pytest.raises(ShapeError, match="The punctuation restorer gave"):
        restore_punctuation([Word("a", 0, 1), Word("b", 1, 2)], lambda texts: marks)


@pytest.mark.parametrize("count", [0, 1, 229, 230, 231, 235, 236, 455, 456, 1000])
def test_chunks_keep_every_word_once(count: int) -> None:
    words = [str(i) for i in range(count)]
    kept = [word for chunk, number in chunks(words) for word in chunk[:number]]
    assert kept == words
    assert all(len(chunk) <= 230 for chunk, _ in chunks(words))


def save_tagger(folder: Path, labels: dict[int, str]) -> None:
    transformers = pytest.importorskip("transformers")
    speller = Speller.letters()
    speller._tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special).save_pretrained(
        folder
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = transformers.BertConfig(
            vocab_size=speller.size,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=16,
            id2label=labels,
            initializer_range=1.0,
        )
        transformers.BertForTokenClassification(config).save_pretrained(folder)


def test_a_tagger_with_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    """The default model comes so; sentencepiece and protobuf belong to the extra."""
    transformers, pieces = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("are you there\nno i left in the old house by the sea\n" * 20)
    pieces.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "sentencepiece.bpe"),
        vocab_size=40,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    config = transformers.XLMRobertaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, id2label=LABELS
    )
    transformers.XLMRobertaForTokenClassification(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}'
    )
    assert len(open_restorer(str(tmp_path))(["are", "you", "there"])) == 3


def test_a_word_gets_the_mark_of_its_last_piece(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_tagger(tmp_path, LABELS)
    capfd.readouterr()
    restorer = open_restorer(str(tmp_path))
    words = ["are", "you", "there", "no", "i", "left", "in", "the", "old", "house", "by", "the", "sea"]
    marks = restorer(words)
    assert capfd.readouterr() == ("", "")
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoding = tokenizer(" ".join(words), return_offsets_mapping=True, return_tensors="pt")
    ends = encoding.pop("offset_mapping")[0, :, 1].tolist()
    with torch.inference_mode():
        labels = network(**encoding).logits[0].argmax(1).tolist()
    last = {end: LABELS[label].replace("0", "") for end, label in zip(ends, labels, strict=True)}
    expected, position = [], 0
    for word in words:
        expected.append(last[position + len(word)])
        position += len(word) + 1
    assert marks == expected
    assert len(set(marks)) > 1
    long = restorer(["unbelievably"] * 300)  # 12 pieces each: more than the network reads at once
    assert len(long) == 300
    assert MARKS.issuperset(long)


def test_models_that_are_no_restorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tagger(tmp_path, {0: "B-PER", 1: "O"})
    with pytest.raises(WeightsError, match="labels B-PER, O; expected the marks"):
        open_restorer(str(tmp_path))
    with pytest.raises(MissingFileError, match=f"'./none'.* or '{MODEL}'.$"):
        open_restorer("./none")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        open_restorer(str(tmp_path))
    monkeypatch.setattr(pretrained, "_from_hub", lambda *given: (_ for _ in ()).throw(WeightsError("no hub")))
    with pytest.raises(WeightsError, match="no hub"):
        open_restorer()


@pytest.mark.parametrize("wanted", [MODEL, "minilm"])
def test_a_download_that_fails_names_only_what_serves(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(name: str, **settings: object) -> str:
        raise FileNotFoundError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(WeightsError, match=rf"'{wanted}' could not be downloaded .* instead of the name\.$") as caught:
        open_restorer(wanted)
    assert "bert" not in str(caught.value)
