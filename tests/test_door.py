"""What the pipeline writes for itself is read through one door: whatever is damaged says the same, or is refused."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cache.clock import FrameClock
from cache.corpus.folds import Fold, load_folds, save_folds
from cache.corpus.manifest import Manifest, Trial
from cache.documents.arrays import format_arrays, read_arrays
from cache.documents.documents import digest_bytes, write_document, write_file
from cache.errors import AvFusionError
from cache.formats.interchange import export_features, import_features
from cache.recipe import Recipe
from cache.store.receipt import Receipt
from cache.store.store import FeatureStore
from extract.weights.cards import WeightsCard
from extract.weights.weights import load_weights
from extract.words.transcripts import read_words, write_words
from extract.words.words import Word
from fusion.bank.normalisation import Moments
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint
from pipelines.project import loose_media, runs
from pipelines.project.corpus_files import Listing, load_files, save_files
from pipelines.project.params import CorpusParams
from pipelines.project.scores import ScoresDocument, read_scores

ROOT = Path(__file__).parents[1]
PACKAGES = ("cache", "extract", "fusion", "pipelines")
READS = {"read_text", "read_bytes", "fromfile", "from_json", "model_validate", "model_validate_json"}
READS_OF = {"json": {"load", "loads"}, "np": {"load", "loadtxt", "genfromtxt"}, "csv": {"reader", "DictReader"}}
ELSEWHERE = {
    "cache/store/chunks.py": "chunks of a store, under the digest of their trial's record",
    "cache/documents/documents.py": "the door",
    "cache/formats/muse.py": "tables of other programs; ours are under the digests of their sidecar",
    "cache/names.py": "source code",
    "cache/formats/npy.py": "arrays of other programs; ours are under the digests of their sidecar",
    "cache/places/folders.py": "the files of a folder, for the door",
    "cache/store/records.py": "a record within a document that was checked already",
    "cache/settings.py": "values of params.yaml",
    "extract/backbones/bert.py": "settings of weights by others",
    "extract/corpora/reading.py": "a corpus",
    "extract/corpora/recola.py": "a corpus, separated by semicolons",
    "extract/faces/crop_records.py": "the end of a zip, under a digest of its own",
    "extract/faces/settings.py": "no file: settings as JSON has them",
    "extract/speech/recognition.py": "what a library of speech recognition says",
    "extract/words/transcripts.py": "transcripts by others; ours pass the door first",
    "extract/weights/weights.py": "one line of digits, which is compared with the weights",
    "extract/inputs/wordpieces.py": "vocabulary of weights by others",
    "fusion/training/checkpoint_files.py": "tensors, under the digest of their document",
    "pipelines/cli/reference.py": "dvc.yaml, as text",
    "pipelines/starting/project.py": "templates of the package",
    "pipelines/stages/plan.py": "templates of the package",
    "pipelines/report/page.py": "templates of the package",
    "pipelines/report/page_tables.py": "no content: the digests of settings",
    "pipelines/project/networks.py": "seconds of an epoch, for the report alone",
    "pipelines/stages/check_corpus.py": "pictures of a corpus",
    "pipelines/project/code_digest.py": "source code",
    "pipelines/project/dvc_locks.py": "locks of DVC's, through the door's schema",
    "pipelines/project/runs.py": "no content: the digest of a document",
    "pipelines/project/yaml_files.py": "params.yaml",
    "pipelines/search/spaces.py": "no file: lists as tables and engines have them",
    "pipelines/endtoend/state_file.py": "states of interrupted fine-tunings, after their digest",
}
FLIPS, CUTS, SWAPS = 60, 25, 25


def reads_itself(path: Path) -> bool:
    """Whether a file of source code reads content other than through the door."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call, ast.Attribute)]
    return any(
        call.attr in READS or (isinstance(call.value, ast.Name) and call.attr in READS_OF.get(call.value.id, ()))
        for call in found
    )


def test_nobody_reads_past_the_door() -> None:
    """Whoever reads files in a way of his own says here why: they are of others, or under a digest somewhere else."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    found = {path.relative_to(ROOT).as_posix() for path in files if reads_itself(path)}
    assert found == set(ELSEWHERE)


class Kind(NamedTuple):
    """Files of one kind, and what reads them: it gives something that can be compared."""

    files: list[Path]
    read: Callable[[], object]


CLOCK = FrameClock(Fraction(25), 20)
LABELS = np.linspace(-1, 1, 40, dtype=np.float32).reshape(20, 2)
FOLD = Fold(0, ("a",), ("b",))


def make_manifest(folder: Path) -> Manifest:
    trials = tuple(Trial(name, name, "train", CLOCK, {"video": f"{name}.mp4"}, LABELS) for name in "ab")
    Manifest(folder, trials).save(folder)
    return Manifest.load(folder)


def manifest(folder: Path) -> Kind:
    def read() -> object:
        found = Manifest.load(folder)
        return found, [trial.labels.tobytes() for trial in found.trials if trial.labels is not None]

    make_manifest(folder)
    return Kind([folder / "manifest.json", folder / "labels.npy"], read)


def folds(folder: Path) -> Kind:
    corpus = make_manifest(folder)
    save_folds((FOLD,), folder / "folds.json", corpus)
    return Kind([folder / "folds.json"], lambda: load_folds(folder / "folds.json", corpus))


def make_store(folder: Path) -> FeatureStore:
    store = FeatureStore.create(
        folder / "visual/mobilefacenet.zarr", Recipe("mobilefacenet", "visual", 8, {"size": 112}, "00ff")
    )
    for seed, name in enumerate("ab"):
        rows = np.random.default_rng(seed).normal(size=(20, 8)).astype(np.float32)
        versions = {"torch": "2.1"}
        store.write(name, rows, np.arange(20) % 5 > 0, source=f"of {name}", clock=CLOCK, versions=versions)
    return store


def receipt(folder: Path) -> Kind:
    path = folder / "visual/mobilefacenet.json"
    Receipt.of(make_store(folder), ["a", "b"]).save(path)
    return Kind([path], lambda: Receipt.load(path))


def export(kind: str) -> Callable[[Path], Kind]:
    def make(folder: Path) -> Kind:
        number = iter(range(1_000_000))

        def read() -> object:
            store, made = import_features(folder / "out", kind, folder / f"again{next(number)}")
            rows = [store.read(name, check=True) for name in store.trial_ids()]
            return store.recipe, made, store.find_records(), [(f.embeddings.tobytes(), f.valid.tobytes()) for f in rows]

        export_features(make_store(folder), ["a", "b"], kind, folder / "out")
        out = folder / "out"
        return Kind([out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file()), read)

    return make


def transcript(folder: Path) -> Kind:
    write_words(folder / "a.json", [Word("Zoë", 0.25, 0.5), Word("came", 0.5, 1.125)], {"recogniser": "x"})
    return Kind([folder / "a.json"], lambda: read_words(folder / "a.json"))


def contents_of_media(folder: Path) -> Kind:
    path = folder / loose_media._KNOWN
    write_document(path, loose_media._Contents, {"files": {"a": "0" * 64, "b": "1" * 64}})
    return Kind([path], lambda: loose_media._read(folder))


def files_of_a_corpus(folder: Path) -> Kind:
    def read() -> Listing | None:
        return load_files(folder / "files.json")

    save_files(
        CorpusParams(name="folder", root="own"), {"a b.csv": "0" * 64, "videos": "1" * 64}, folder / "files.json"
    )
    return Kind([folder / "files.json"], read)


def run(folder: Path) -> Kind:
    def read() -> object:
        (found,) = runs.load_networks(folder / "run")
        state = {name: tensor.numpy().tobytes() for name, tensor in found.model.state_dict().items()}
        return state, found.fold, found.training, found.recipes, found.targets, runs.read_history(folder / "run")

    with torch.random.fork_rng():
        model = build_model("rnn", {"visual": 8}, ("valence", "arousal"), {"d_model": 4})
    recipes = {"visual": Recipe("mobilefacenet", "visual", 8, {"size": 112}, "00ff")}
    moments = {"visual": Moments(torch.zeros(8), torch.ones(8))}
    targets = Manifest(folder, ()).targets
    Checkpoint(model, moments, recipes, FOLD, TrainConfig(), {"valence": 0.5}, {"torch": "2"}, targets).save(
        folder / "run"
    )
    runs.save_run(folder / "run", "0" * 64, [{"epoch": 1, "ccc": 0.25, "loss": 0.125}])
    return Kind(sorted((folder / "run").iterdir()), read)


def scores(folder: Path) -> Kind:
    figures = {"mean": 0.5, "std": None, "best": 0.5, "low": 0.25, "high": 0.75}
    content = {"partition": "test", "folds": [0], "systems": {"a": {"ccc": {"valence": figures, "mean": figures}}}}
    write_document(folder / "scores.json", ScoresDocument, content)
    return Kind([folder / "scores.json"], lambda: read_scores(folder / "scores.json"))


def predictions(folder: Path) -> Kind:
    def read() -> object:
        shapes = {"a": (20, 2), "b": (20, 2)}
        found = read_arrays(folder / "a.npz", "<f4", shapes, digest_bytes(content), "Run 'avfusion evaluate' again.")
        return {name: rows.tobytes() for name, rows in found.items()}

    content = format_arrays({"a": LABELS, "b": -LABELS})
    write_file(folder / "a.npz", content)
    return Kind([folder / "a.npz"], read)


def digest_of_weights(folder: Path) -> Kind:
    card = WeightsCard("short", "", "https://example.org/short.pt", "", "MIT", "Paper2020")
    torch.save({"a": torch.zeros(1)}, folder / "short.pt")
    digest = digest_bytes((folder / "short.pt").read_bytes())
    write_file(folder / "short.pt.sha256", f"{digest}\n".encode())
    return Kind([folder / "short.pt.sha256"], lambda: load_weights("short", {"short": card}).sha256)


KINDS: Mapping[str, Callable[[Path], Kind]] = {
    "manifest and labels": manifest,
    "folds": folds,
    "receipt": receipt,
    **{f"export as {kind}": export(kind) for kind in ("hdf5", "muse", "npy", "zstd")},
    "transcript": transcript,
    "contents of media": contents_of_media,
    "files of a corpus": files_of_a_corpus,
    "run": run,
    "scores": scores,
    "predictions": predictions,
    "digest of weights": digest_of_weights,
}


def damages(content: bytes, generator: random.Random) -> Iterator[bytes]:
    """Flipped bits, letters or digits in the place of others, and cuts, all over a file."""
    for _ in range(FLIPS):
        place = generator.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    words = [match.start() for match in re.finditer(rb"[0-9A-Za-z]", content)]
    for _ in range(SWAPS if words else 0):
        place = generator.choice(words)
        yield content[:place] + generator.choice(b"0123456789abcdefxyzAB").to_bytes(1, "big") + content[place + 1 :]
    yield from (content[:place] for place in (0, 1, *(generator.randrange(len(content)) for _ in range(CUTS))))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", KINDS)
def test_whatever_is_damaged_says_the_same_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AVFUSION_WEIGHTS", str(tmp_path))
    kind, generator, refused = KINDS[name](tmp_path), random.Random(name), 0
    expected = kind.read()
    for path in kind.files:
        whole = path.read_bytes()
        for content in damages(whole, generator) if whole else ():
            path.write_bytes(content)
            try:
                found: Any = kind.read()
            except AvFusionError as error:
                refused += 1
                says = str(error)
                assert any(str(place) in says for place in (path.name, *path.relative_to(tmp_path).parents[:-1])), says
                assert re.search(r"(avfusion|extract-features) |again|[Dd]elete|[Rr]emove|Replace|Save|Fix", says), says
                assert "\n" not in says
            else:
                assert found == expected, f"{path}: {content[:2000]!r}"
        path.write_bytes(whole)
    assert refused > 20
    assert kind.read() == expected
