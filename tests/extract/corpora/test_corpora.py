"""The contract of a corpus, over the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cache.errors import AvFusionError
from cache.names import config_of, load_named
from extract.corpora import CORPORA


def test_the_table_is_sorted() -> None:
    assert list(CORPORA) == sorted(CORPORA)
    assert all(target.startswith(f"extract.corpora.{name}:") for name, target in CORPORA.items())


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_keeps_the_contract(name: str, tmp_path: Path) -> None:
    kind = load_named("corpus", CORPORA, name)
    config = config_of(CORPORA[name])
    assert dataclasses.fields(config)
    assert config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not kind.recognises(tmp_path)
    assert not kind.recognises(tmp_path / "nowhere")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AvFusionError):
            kind(config()).read(root)
