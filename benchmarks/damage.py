"""Does the pipeline notice all damage to its files?

    python -m benchmarks.damage [--each 25] [--seed 0]

Builds a small project (corpus, transcripts, crops, features, two networks of two epochs, scores, report), then flips single bits of its
files, or truncates them, keeping their time stamps, and runs every command that reads such a file, in this process. Each
damage counts as one of:

    refused     a command says which file is damaged and what to do, exit code 1
    repaired    a command made the file again, just as it was
    same        the damaged file means the same (e.g. a digit beyond a number's precision)
    not read    no command reads the file, and all of them end as before
    silent      a command succeeded with different results, or all of them ignored the damage
    traceback   a command crashed instead of reporting an error

Media and annotations of the demo corpus are left out: they are the input, and a change to them is a change of the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from cache.corpus.manifest import Manifest
from extract.words.transcripts import read_words, write_words
from pipelines.cli.commands import avfusion
from pipelines.project import paths
from pipelines.stages.corpus import transcript_path

ROOT = Path(__file__).parents[1]
BACKBONES = ("mobilefacenet", "conv1d")
Command = tuple[str, ...]

PLAN: Command = ("plan",)
CROPS: Command = ("crops",)
EXTRACT: Command = ("extract", *(word for name in BACKBONES for word in ("--backbone", name)))
TEXT: Command = ("extract", "--backbone", "bert")
VERIFY: Command = ("cache", "verify", "--json")
DROP: Command = ("cache", "verify", "--drop")
LS: Command = ("cache", "ls", "--json")
TRAIN: Command = ("train",)
EVALUATE: Command = ("evaluate", "--json")
COMPARE: Command = ("compare", "--json")
REPORT: Command = ("report",)
BUILD = (("transcribe",), PLAN, CROPS, EXTRACT, TEXT, TRAIN, EVALUATE, REPORT)
SAYS_RESULTS = (EVALUATE, COMPARE, LS)  # whose output is a result, and the same in every run


@dataclass(frozen=True)
class Kind:
    """One kind of file: its path patterns, and the commands that read it, if any."""

    patterns: str
    readers: tuple[Command, ...] = ()

    @property
    def files(self) -> list[Path]:
        """All files of this kind in the current folder."""
        return sorted(path for pattern in self.patterns.split() for path in Path().glob(pattern) if path.is_file())


KINDS = {
    "manifest": Kind("work/corpus/manifest.json", (CROPS, EXTRACT, VERIFY, TRAIN, EVALUATE, REPORT)),
    "labels": Kind("work/corpus/labels.npy", (CROPS, EXTRACT, VERIFY, TRAIN, EVALUATE, REPORT)),
    "files of the corpus": Kind("work/corpus/files.json", (TRAIN, EVALUATE)),
    "files, looked at again": Kind("work/corpus-files.json", (PLAN,)),
    "settings of stages": Kind("work/plan/*.json", (PLAN,)),
    "transcripts": Kind("work/words/*.json", (TEXT,)),
    "crops": Kind("work/crops/*/*.zip", (CROPS, EXTRACT)),
    "receipt of crops": Kind("work/crops.json", (CROPS,)),
    "root of a store": Kind("features/[mc]*.zarr/zarr.json", (EXTRACT, VERIFY, LS, TRAIN, EVALUATE)),
    "recipe": Kind("features/[mc]*.zarr/*/zarr.json", (EXTRACT, VERIFY, LS, TRAIN, EVALUATE)),
    "record of a trial": Kind("features/[mc]*.zarr/*/*/zarr.json", (EXTRACT, VERIFY, DROP, TRAIN, EVALUATE)),
    "embeddings": Kind("features/[mc]*.zarr/*/*/c/*/*", (VERIFY, DROP, EVALUATE)),
    "receipt of features": Kind("features/receipts/[mc]*.json", (EXTRACT, VERIFY, TRAIN, EVALUATE, REPORT)),
    "folds": Kind("work/models/folds.json", (TRAIN, EVALUATE)),
    "run and history": Kind("work/models/**/run.json work/networks/*/run.json", (TRAIN, EVALUATE, REPORT, COMPARE)),
    "document of a network": Kind("work/models/**/model.json work/networks/*/model.json", (TRAIN, EVALUATE)),
    "weights": Kind("work/models/**/*.safetensors work/networks/*/*.safetensors", (TRAIN, EVALUATE)),
    "predictions": Kind("work/predictions/*.npz", (EVALUATE, REPORT)),
    "scores": Kind("results/scores.json", (COMPARE, REPORT)),
    "tables for DVC": Kind("results/history.csv results/systems.csv results/metrics/*.json"),
    "page and figures": Kind("results/report.md results/figures/*"),
}
NEVER_READ = (LS, VERIFY, EXTRACT, TRAIN, EVALUATE, COMPARE, REPORT)  # run on what is said not to be read


def build_project(folder: Path) -> None:
    """Make the project, with all its files."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"]["settings"] = {"num_trials": 3, "num_subjects": 3, "min_s": 2.0, "max_s": 3.0}
    for name in ("conv1d", "conv1d_tuned"):
        params["extract"][name]["settings"] = {"window_s": 0.1}  # a fifth of the work
    fusion = params["fusion"]
    fusion.update(seeds=[0], workers=1, train={"epochs": 2})
    fusion["systems"] = {
        "audio": {"model": "rnn", "modalities": {"audio": "conv1d"}},
        "visual": {"model": "rnn", "modalities": {"visual": "mobilefacenet"}},
    }
    params["evaluate"]["draws"] = 20
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with chdir(folder):
        assert run(("corpus", "build")).exit_code == 0
        write_transcripts()
        for command in BUILD:
            result = run(command)
            assert result.exit_code == 0, result.output


def write_transcripts() -> None:
    """Leave the words that the corpus brings out of its manifest, and have them as `avfusion transcribe` would write them."""
    manifest = Manifest.load(paths.CORPUS)
    trials = []
    for trial in manifest.trials:
        write_words(transcript_path(trial), read_words(manifest.path(trial, "words")))
        trials.append(replace(trial, media={kind: path for kind, path in trial.media.items() if kind != "words"}))
    replace(manifest, trials=tuple(trials)).save(paths.CORPUS)


def run(command: Sequence[str]) -> Result:
    """Run a command in this process, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(avfusion, list(command))


@dataclass(frozen=True)
class Damage:
    """A flipped bit, or a file cut off, of one kind of file."""

    kind: str
    path: Path
    place: int
    bit: int | None

    def __str__(self) -> str:
        what = f"cut at byte {self.place}" if self.bit is None else f"bit {self.bit} of byte {self.place}"
        return f"{self.kind}, {self.path}: {what}"

    def of(self, content: bytes) -> bytes:
        """The damaged content."""
        if self.bit is None:
            return content[: self.place]
        return content[: self.place] + bytes([content[self.place] ^ 1 << self.bit]) + content[self.place + 1 :]


class Project:
    """The finished project in the current folder, which every damage starts from."""

    def __init__(self) -> None:
        self.files = {path: path.read_bytes() for path in self._list()}
        self.times = {path: os.stat(path) for path in self.files}
        self.said = {command: run(command).stdout for command in SAYS_RESULTS}
        self.restore()

    def _list(self) -> Iterator[Path]:
        places = ("work", "features", "results")
        found = (path for place in places for path in sorted(Path(place).rglob("*")) if path.is_file())
        # left out: what an epoch took, which differs where it is trained again, and what only saves time, with times of files
        own = {Path("work/finished"), Path("work/code-seen.json")}
        return (path for path in found if path.name != "seconds" and not own & {path, *path.parents})

    def draw(self, kind: str, generator: random.Random) -> Damage:
        """Some damage of one kind of file: three flips to one cut."""
        path = generator.choice(KINDS[kind].files)
        place = generator.randrange(len(self.files[path]))
        return Damage(kind, path, place, generator.randrange(8) if generator.random() < 0.75 else None)

    def write(self, path: Path, content: bytes) -> None:
        """Write into a file as it lies there, as decay does, and keep its time stamps."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(self.times[path].st_atime_ns, self.times[path].st_mtime_ns))

    def restore(self) -> None:
        """Restore every file."""
        found = {path: path.read_bytes() for path in self._list()}
        for path in found.keys() - self.files.keys():
            path.unlink()
        for path, content in self.files.items():
            if found.get(path) != content or path.stat().st_mtime_ns != self.times[path].st_mtime_ns:
                self.write(path, content)

    def changes(self) -> set[Path]:
        """Files that changed their meaning, were added or removed."""
        found = {path: path.read_bytes() for path in self._list()}
        both = found.keys() & self.files.keys()
        return (found.keys() ^ self.files.keys()) | {
            path
            for path in both
            if found[path] != self.files[path] and meaning(found[path]) != meaning(self.files[path])
        }

    def judge(self, damage: Damage) -> str:
        """What became of a damage: the worst of what its readers made of it."""
        kind = KINDS[damage.kind]
        content = damage.of(self.files[damage.path])
        found = [self._try(command, damage.path, content) for command in kind.readers or NEVER_READ]
        self.restore()
        worst = ["traceback", "silent", *(["refused", "repaired"] if kind.readers else [])]
        for verdict in worst:
            if verdict in found:
                return verdict
        if kind.readers:
            return "same" if meaning(content) == meaning(self.files[damage.path]) else "silent"
        return "not read"

    def _try(self, command: Command, path: Path, content: bytes) -> str:
        self.restore()
        self.write(path, content)
        result = run(command)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return "traceback"
        if result.exit_code:
            told = result.stderr.startswith("Error: ") or "Error: " in result.stderr or "fault" in result.output
            return "refused" if told else "traceback"
        if command == LS and "cannot be opened" in result.stdout:
            return "refused"  # and lists the others
        changed = self.changes()
        if changed - {path} or (command in SAYS_RESULTS and result.stdout != self.said[command]):
            return "silent"
        if path not in changed and path.read_bytes() != content:
            return "repaired"
        return "passed over"


def meaning(content: bytes) -> Any:
    """What a file says: JSON without how long a trial took, and without digests over that; else its bytes, without how long an epoch took."""
    try:
        document = json.loads(content)
        record = document["attributes"]["avfusion_commit"]
        return {
            **document,
            "attributes": {key: value for key, value in record.items() if key not in ("seconds", "digest")},
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return re.sub(rb'(<td class="number seconds">)[^<]*', rb"\1", content)


def main() -> None:
    """Damage files of each kind and count the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=25, help="damages of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only this kind")
    arguments = parser.parse_args()
    generator, start = random.Random(arguments.seed), time.monotonic()
    folder = Path(tempfile.mkdtemp())
    verdicts = ("refused", "repaired", "same", "not read", "silent", "traceback")
    total: Counter[str] = Counter()
    try:
        build_project(folder)
        with chdir(folder):
            project = Project()
            print(
                f"| kind of file | damages | {' | '.join(verdicts)} |\n|---|{'---|' * (1 + len(verdicts))}", flush=True
            )
            for kind in arguments.kind or KINDS:
                counts: Counter[str] = Counter()
                for damage in [project.draw(kind, generator) for _ in range(arguments.each)]:
                    verdict = project.judge(damage)
                    counts[verdict] += 1
                    if verdict in ("silent", "traceback"):
                        print(f"{verdict}: {damage}", flush=True)
                total += counts
                print(f"| {kind} | {counts.total()} | {' | '.join(str(counts[v]) for v in verdicts)} |", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"| all | {total.total()} | {' | '.join(str(total[v]) for v in verdicts)} |")
    print(f"seed {arguments.seed}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
