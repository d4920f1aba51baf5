"""Folders from the Hugging Face hub: the local cache first, then the network, with a timeout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache.errors import WeightsError
from extract.weights.hub import TIMEOUT_S, find_model

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install 'avfusion[text]'")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def info(name: str, timeout: float) -> None:
        asked.append((name, timeout))
        raise RuntimeError("The read operation\n  timed out.")

    def snapshot(name: str, **settings: Any) -> str:
        assert settings["local_files_only"]
        raise FileNotFoundError("not here")

    monkeypatch.setattr(hub, "model_info", info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(
        WeightsError,
        match=r"'some/bert' could not be downloaded \(RuntimeError: The read operation timed out\)\. Put its",
    ):
        find_model("some/bert")
    assert asked == [("some/bert", TIMEOUT_S)]


def test_whatever_breaks_a_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **settings: Any) -> str:
        raise FileNotFoundError("not here") if settings["local_files_only"] else RuntimeError("xet broke")

    monkeypatch.setattr(hub, "model_info", lambda name, timeout: None)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(RuntimeError: xet broke\)"):
        find_model("some/bert")


def test_downloads_have_a_timeout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")

    def snapshot(name: str, **settings: Any) -> str:
        if settings["local_files_only"]:
            raise FileNotFoundError("not here")
        assert settings["etag_timeout"] == TIMEOUT_S
        return str(tmp_path)

    monkeypatch.setattr(hub, "model_info", lambda name, timeout: None)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert find_model("some/bert") == tmp_path
