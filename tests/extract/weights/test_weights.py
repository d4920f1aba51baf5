"""Weights: prefixes in front of names, digests, and what a failed download says."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cache.errors import WeightsError
from extract.backbones.contract import load_backbone
from extract.weights import weights as loading
from extract.weights.cards import WeightsCard
from extract.weights.weights import load_weights

FOAMLIU = Path(__file__).resolve().parents[4] / "shared" / "weights" / "mobilefacenet_foamliu.pt"
PREFIXES = (
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "backbone.",
    "model.backbone.",
    "student.encoder.net._orig_mod.",
    "module.module.",
)
Save = Callable[[dict[str, Tensor], Path], object]
SAVE: dict[str, Save] = {
    "plain": lambda tensors, path: torch.save(tensors, path),
    "state_dict": lambda tensors, path: torch.save({"state_dict": tensors, "epoch": 3}, path),
    "nested": lambda tensors, path: torch.save({"model": {"state_dict": tensors}, "epoch": 3}, path),
    "safetensors": lambda tensors, path: save_file({k: v.contiguous() for k, v in tensors.items()}, path),
}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return dict(load_backbone("mobilefacenet", "random").body.state_dict())


def load(folder: Path, tensors: dict[str, Tensor], kind: str = "plain") -> Any:
    path = folder / ("w.safetensors" if kind == "safetensors" else "w.pt")
    SAVE[kind](tensors, path)
    backbone = load_backbone("mobilefacenet", str(path))
    assert backbone.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return backbone


@pytest.mark.parametrize(
    ("prefix", "kind"), [*zip(PREFIXES, sorted(SAVE) * 3, strict=False), *(("module.", kind) for kind in sorted(SAVE))]
)
def test_a_prefix_of_all_names_is_left_out_and_told(
    tmp_path: Path, tensors: dict[str, Tensor], prefix: str, kind: str
) -> None:
    with pytest.warns(UserWarning, match="tensor names of weights .* which was removed to make them fit") as warned:
        backbone = load(tmp_path, {prefix + name: value for name, value in tensors.items()}, kind)
    assert [f"start with '{prefix}'" in str(one.message) for one in warned] == [True]
    found = backbone.body.state_dict()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("kind", sorted(SAVE))
def test_names_that_fit_are_left_alone(tmp_path: Path, tensors: dict[str, Tensor], kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, tensors, kind)


def test_the_head_within_the_wrapper_goes_as_ever(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    head = {"linear.weight": torch.zeros(3, 512), "bn.weight": torch.zeros(3)}
    with pytest.warns(UserWarning, match=r"start with 'model\.'"):
        load(tmp_path, {f"model.{name}": value for name, value in {**tensors, **head}.items()})
    with pytest.warns(UserWarning, match=r"start with 'model\.'"):
        load(tmp_path, {f"model.{name}": value for name, value in tensors.items()} | head)


def test_no_tensor_is_dropped_for_a_prefix(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    others = {f"model.{name}": value for name, value in tensors.items()} | {"criterion.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"first tensor: .*Give weights"):
        load(tmp_path, others)
    missing = {f"module.{name}": value for name, value in tensors.items() if not name.startswith("conv1.")}
    with pytest.raises(WeightsError, match=r"first tensor: .*Give weights"):
        load(tmp_path, missing)


def test_names_that_would_collide_are_left_alone(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2), "a.a.weight": torch.zeros(2), "weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="do not fit"):
        load_backbone("conv1d", str(tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["resnet50", "conv1d"])
def test_prefixes_of_other_networks(tmp_path: Path, name: str) -> None:
    before = load_backbone(name, "random")
    part = before.body
    torch.save({f"module.net.{key}": value for key, value in part.state_dict().items()}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match=r"start with 'module\.net\.'"):
        after = load_backbone(name, str(tmp_path / "w.pt"))
    (tmp_path / "w.pt").unlink()
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_prefixes_of_published_weights(tmp_path: Path, prefix: str) -> None:
    if not FOAMLIU.is_file():
        pytest.skip("no weights here")
    tensors = load_weights(str(FOAMLIU), {}).tensors
    assert tensors is not None
    with pytest.warns(UserWarning, match=f"start with '{prefix}'"):
        backbone = load(tmp_path, {prefix + name: value for name, value in tensors.items()}, "state_dict")
    assert backbone.settings()["variant"] == "foamliu"


CARD = WeightsCard("short", "", "https://example.org/short.pt", "", "MIT", "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, with weights in it."""
    monkeypatch.setenv("AVFUSION_WEIGHTS", str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "short.pt")
    return tmp_path


def digest(place: Path) -> str:
    return hashlib.sha256((place / "short.pt").read_bytes()).hexdigest()


def test_a_published_digest_is_demanded(place: Path) -> None:
    card = replace(CARD, sha256=digest(place))
    assert load_weights("short", {"short": card}).card == card
    assert [path.name for path in place.iterdir()] == ["short.pt"]
    with pytest.raises(
        WeightsError, match="have sha256 '.{12}…', expected '000000000000…'. Delete the file and run again"
    ):
        load_weights("short", {"short": replace(card, sha256="0" * 64)})


@pytest.mark.parametrize("digits", [0, 8])
def test_where_none_is_published_the_first_file_counts(place: Path, digits: int) -> None:
    found = digest(place)
    card = replace(CARD, sha256=found[:digits])
    with pytest.warns(
        UserWarning, match=f"There is no complete published digest of weights 'short'; .*'{found}', which later"
    ):
        assert load_weights("short", {"short": card}).sha256 == found
    assert (place / "short.pt.sha256").read_text() == f"{found}\n"
    assert load_weights("short", {"short": card}).sha256 == found  # told once
    torch.save({"a": torch.zeros(2)}, place / "short.pt")
    with pytest.raises(WeightsError, match=f"expected '{found[: digits or 12]}…'"):
        load_weights("short", {"short": card})
    (place / "short.pt.sha256").write_text("")
    with pytest.raises(WeightsError, match=r"expected '.*…'.*Delete"):
        load_weights("short", {"short": card})


def test_first_digits_are_a_promise(place: Path) -> None:
    card = replace(CARD, sha256=digest(place)[:8])
    assert load_weights(str(place / "short.pt"), {"short": card}).card == card
    assert load_weights(str(place / "short.pt"), {"none": CARD}).card is None
    wrong = replace(card, sha256="00000000" if digest(place)[0] != "0" else "ffffffff")
    with pytest.raises(WeightsError, match="have sha256"):
        load_weights("short", {"short": wrong})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | Exception], None]:
    """Say what a download brings."""

    def prepare(content: bytes | Exception) -> None:
        def download(url: str, path: Path, max_bytes: int, check: Callable[[Path], None]) -> None:
            assert (url, max_bytes) == (CARD.origin, 2 * 1024**3)
            if isinstance(content, Exception):
                raise content
            partial = path.with_name(".partial.pt")
            partial.write_bytes(content)
            try:
                check(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

        monkeypatch.setattr(loading, "download", download)

    return prepare


@pytest.mark.parametrize(
    ("content", "card", "text"),
    [
        (OSError("no route to host"), CARD, r"could not be downloaded \(no route to host\)"),
        (TimeoutError("no response for 30 s"), CARD, r"could not be downloaded \(no response for 30 s\)"),
        (OSError(28, "full"), CARD, r"could not be downloaded \(No space left on device\)"),
        (b"x", replace(CARD, sha256="0" * 64), r"\(it has sha256 '2d711642b726…', expected '000000000000…'\)"),
        (b"x", replace(CARD, sha256="00"), r"\(it has sha256 '2d711642b726…', expected '00…'\)"),
        (b"<!DOCTYPE html>", CARD, r"\(the download is not a file of tensors\)"),
    ],
)
def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(
    place: Path, serve: Callable[[bytes | Exception], None], content: bytes | Exception, card: WeightsCard, text: str
) -> None:
    (place / "short.pt").unlink()
    serve(content)
    with pytest.raises(WeightsError, match=text) as caught:
        load_weights("short", {"short": card})
    assert f"Download '{CARD.origin}' yourself, put it at '{place / 'short.pt'}'" in str(caught.value)
    assert list(place.iterdir()) == []


def test_a_download_is_used(place: Path, serve: Callable[[bytes | Exception], None]) -> None:
    content, found = (place / "short.pt").read_bytes(), digest(place)
    (place / "short.pt").unlink()
    serve(content)
    assert load_weights("short", {"short": replace(CARD, sha256=found)}).sha256 == found
    assert [path.name for path in place.iterdir()] == ["short.pt"]
