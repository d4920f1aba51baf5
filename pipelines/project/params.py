"""The settings of `params.yaml` as types; `pipelines.project.params_file` reads them.

Every stage is given only the section that it needs, so that DVC does not re-run a stage for a setting that it does not use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cache.corpus.folds import FOLD_KINDS
from cache.corpus.manifest import PARTITIONS
from cache.errors import SettingError, UnknownNameError
from cache.names import require_known
from cache.recipe import DTYPES
from cache.settings import check_ranges, expected_one_of
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from extract.engine.runtimes import RUNTIMES
from extract.faces.settings import CropConfig
from fusion.models import MODELS
from fusion.training.postprocessing import find_chain_faults
from fusion.training.reading import AS_TRAINED, find_hop_fault
from pipelines.console.trackers import TRACKERS
from pipelines.endtoend.settings import FinetuneParams

AUTO = "auto"
ALL = "all"
"""Stands for all feature sets."""


@dataclass(frozen=True)
class CorpusParams:
    """Which recordings.

    Attributes:
        name: name of the corpus: see `avfusion list corpora`.
        root: folder of the corpus; "" for a generated one (it goes to `work/corpus`, which DVC restores: keep media that you
            edit elsewhere).
        settings: settings of the corpus.
    """

    name: str = "demo"
    root: str = ""
    settings: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges("section 'corpus'", self, {}, {"name": CORPORA})


@dataclass(frozen=True)
class FeatureSetParams:
    """One feature set of stage one: the embeddings of the corpus by one backbone.

    Attributes:
        weights: a registered name, a path, "random" (seeded, untrained), or "finetuned": those that section `finetune` trains of
            this backbone ("finetuned:NAME" where several do).
        backbone: see `avfusion list backbones`; by default the name of the set.
        dtype: precision of the stored embeddings, float16 or float32.
        settings: settings of the backbone.
        runtime: what runs it on a CPU: torch, or openvino (extra `openvino`), which takes a third to two thirds of the time; "" for
            that of `--runtime`. Embeddings differ by a few millionths, so finished ones are kept when it changes.
    """

    weights: str
    backbone: str = ""
    dtype: str = "float16"
    settings: Any = field(default_factory=dict)
    runtime: str = ""

    def __post_init__(self) -> None:
        check_ranges("a feature set", self, {}, {"dtype": DTYPES, "runtime": ("", *RUNTIMES)})

    def plan(self) -> dict[str, Any]:
        """The settings that decide the embeddings."""
        return {name: value for name, value in asdict(self).items() if name != "runtime"}


@dataclass(frozen=True)
class SystemParams:
    """One fusion system: a model over some modalities.

    Attributes:
        model: name of the fusion model: see `avfusion list models`.
        modalities: the system's own name for a modality (a word) → the feature set that it reads, one from `extract` or an
            imported one. The model only knows these names; several sets may come from one backbone.
        settings: settings of the model.
        train: settings of training that differ from those in `fusion.train`.
        pca: modality → number of principal components to reduce its embeddings to, fitted on the fold's training trials;
            other modalities keep all dimensions.
    """

    model: str
    modalities: dict[str, str]
    settings: Any = field(default_factory=dict)
    train: Any = field(default_factory=dict)
    pca: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = {} if self.modalities else {"modalities": "is {}, expected at least one, as 'visual: mobilefacenet'"}
        for name in self.modalities:
            if not name.isidentifier():
                faults[f"modalities.{name}"] = "is not a word, expected letters, digits and '_'"
        for name in self.pca:
            if name not in self.modalities:
                faults[f"pca.{name}"] = f"names no modality of the system; {expected_one_of(name, self.modalities)}"
        check_ranges("a system", self, {}, {"model": MODELS}, faults)


@dataclass(frozen=True)
class BankParams:
    """The features that training holds in memory.

    Attributes:
        memory_gb: budget for the features of a system and their normalised copy, in 10^9 bytes for each worker;
            modalities that do not fit are read from the store while training, with the same result.
    """

    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        check_ranges("the bank", self, {"memory_gb": (0, 1e9)}, {})


@dataclass(frozen=True)
class FoldParams:
    """How the corpus is divided.

    Attributes:
        kind: auto (the corpus's own partition, or grouped folds where it has none), partition, rotated (the six blocks
            of [Zhang2023]), grouped (subjects kept together) or stratified (the same, balanced by the range of labels).
        number: which fold to train, from 0; -1 for every fold, one run each.
        count: number of folds; 0 for six, or one per subject with labels if there are fewer. The partition is always one, and
            refuses another number.
        seed: seed of grouped and stratified folds.
        disjoint: for rotated folds: keep subjects together, as [Zhang2023] says and its code does not.
        path: JSON file with folds to use instead, in the format of `work/models/folds.json`.
    """

    kind: str = "auto"
    number: int = 0
    count: int = 0
    seed: int = 0
    disjoint: bool = True
    path: str = ""

    def __post_init__(self) -> None:
        faults = {} if self.count == 0 or self.count >= 2 else {"count": f"is {self.count}, expected 0 or at least 2"}
        check_ranges("the folds", self, {"number": (-1, 10**6), "seed": (0, 2**32 - 1)}, {"kind": FOLD_KINDS}, faults)


@dataclass(frozen=True)
class FusionParams:
    """Stage two.

    Attributes:
        seeds: one training run each; results are their mean and spread.
        systems: name → system.
        folds: how the corpus is divided.
        bank: the features in memory.
        device: auto, cpu, cuda or cuda:N.
        threads: threads of torch on the CPU, in each worker; more than one slows small models down.
        workers: processes that train in parallel, one run each, with the same results.
        train: settings of training.
        tracker: dvclive, mlflow or tensorboard, which is told every epoch of what is trained or fine-tuned, and the scores, in work/tracking; none if "".
    """

    seeds: list[int]
    systems: dict[str, SystemParams]
    folds: FoldParams = field(default_factory=FoldParams)
    bank: BankParams = field(default_factory=BankParams)
    device: str = "auto"
    threads: int = 1
    workers: int = 1
    train: Any = field(default_factory=dict)
    tracker: str = ""

    def __post_init__(self) -> None:
        ranges = {"threads": (1, 1024), "workers": (1, 1024)}
        check_ranges("section 'fusion'", self, ranges, {"tracker": ("", *TRACKERS)})

    def pick(self, names: Sequence[str]) -> dict[str, SystemParams]:
        """Systems by name; all if no name is given.

        Raises:
            UnknownNameError: if there is none of a name.
        """
        for name in names:
            require_known("system in section 'fusion' of params.yaml", name, self.systems)
        return {name: self.systems[name] for name in names or self.systems}


@dataclass(frozen=True)
class EvaluateParams:
    """What is evaluated.

    Attributes:
        partition: the part of each fold that its networks are scored on: train, validation, test, or auto, which is test
            if every trained fold has labelled trials in it, else validation.
        best_folds: N to also predict the test trials, labelled or not, by the N folds with the highest validation CCC, of each the
            best seed for each target [Zhang2023, Section 3.4], into `work/predictions/test`; all folds need the same test trials.
            If these are scored, this is the ensemble. 0 for none.
        window: frames of the windows that predictions are made in; "auto" for those with the best CCC on the validation trials,
            chosen among a few when a network is trained, "train" for those of training, as papers do. Models of a fixed length
            keep theirs.
        hop: frames between the starts of these windows, at most a window; frames in several of them take the mean. "auto" for
            what belongs to the window, of a number a quarter.
        postprocess: steps that predictions pass, with parameters that were fitted on the validation trials when a network was
            trained: one of median, exponential and savgol (smoothing), then delay (a shift in time), then scale (with a shift);
            `compare` shows the figures without them beside those with them. None by default.
        draws: number of bootstrap samples for the confidence intervals over trials.
        level: share of the samples inside an interval.
        seed: seed of the samples.
    """

    partition: str = AUTO
    best_folds: int = 0
    window: Any = AUTO
    hop: Any = AUTO
    postprocess: tuple[str, ...] = ()
    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        faults = {} if 0 < self.level < 1 else {"level": f"is {self.level:g}, expected more than 0 and less than 1"}
        for name, words in {"window": (AUTO, AS_TRAINED), "hop": (AUTO,)}.items():
            value = getattr(self, name)
            if value not in words and not (type(value) is int and 1 <= value <= 10**6):
                faults[name] = f"is {value!r}, expected 1 to {10**6} or {' or '.join(words)}"
        if wrong := find_chain_faults(self.postprocess):
            faults["postprocess"] = wrong
        if not faults and (wrong := find_hop_fault(self.window, self.hop)):
            faults["hop"] = wrong
        ranges = {"best_folds": (0, 10**6), "draws": (1, 10**6), "seed": (0, 2**63 - 1)}
        check_ranges("section 'evaluate'", self, ranges, {"partition": (AUTO, *PARTITIONS)}, faults)

    @property
    def answers(self) -> tuple[Any, Any, tuple[str, ...]]:
        """How networks make their predictions, as `fusion.training.checkpoint.Checkpoint.answering` takes it."""
        return self.window, self.hop, self.postprocess


def _is_address(text: str) -> bool:
    """Whether this is the address of a scheduler, with a port that exists."""
    found = re.fullmatch(r"(?:tcp|tls|ws|wss|ucx)://\S+:(\d{1,5})/?", text)
    return found is not None and 0 < int(found[1]) < 1 << 16


@dataclass(frozen=True)
class ClusterParams:
    """Processes that share stage one through Dask, see docs/clusters.md; none by default.

    Attributes:
        workers: number of processes to start on this machine, at most one for each GPU where there are GPUs.
        scheduler: address of a cluster that runs already, such as tcp://host:8786.
    """

    workers: int = 0
    scheduler: str = ""

    def __post_init__(self) -> None:
        faults = {}
        if self.scheduler and not _is_address(self.scheduler):
            faults["scheduler"] = f"is '{self.scheduler}', expected an address such as tcp://host:8786"
        elif self.scheduler and self.workers:
            faults["workers"] = (
                f"is {self.workers}, expected 0 where there is a scheduler; a cluster has its own workers"
            )
        check_ranges("section 'cluster'", self, {"workers": (0, 1024)}, {}, faults)

    @property
    def is_wanted(self) -> bool:
        """Whether there is to be a cluster."""
        return bool(self.workers or self.scheduler)

    def choose(self, workers: int | None, scheduler: str | None) -> ClusterParams:
        """This one, unless a command line asks for another one, or with 0 workers for none.

        Raises:
            SettingError: if it asks for both.
        """
        if workers and scheduler:
            raise SettingError(
                f"Both --workers {workers} and --scheduler {scheduler} are given, and a cluster has its own workers. Leave one out."
            )
        return self if workers is None and not scheduler else ClusterParams(workers or 0, scheduler or "")


@dataclass(frozen=True)
class Params:
    """All of `params.yaml`.

    Attributes:
        corpus: which recordings.
        fusion: the systems and their training.
        crops: detection, tracking and alignment of faces.
        extract: name → feature set.
        finetune: name → fine-tuning of backbones.
        evaluate: what is evaluated.
        matrix: more systems to compare, in the form of section `fusion`: many models over many sets of modalities. It may be a
            file of its own, `matrix.yaml`, which keeps `dvc exp show` short; its folds are those of `fusion` unless it has its
            own. Its section `cross` stands for systems: every model on every choice of encoders, see docs/search.md.
        cluster: processes that share stage one.
    """

    corpus: CorpusParams
    fusion: FusionParams
    crops: CropConfig = field(default_factory=CropConfig)
    extract: dict[str, FeatureSetParams] = field(default_factory=dict)
    finetune: dict[str, FinetuneParams] = field(default_factory=dict)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    matrix: FusionParams | None = None
    cluster: ClusterParams = field(default_factory=ClusterParams)

    def reads(self, name: str) -> bool:
        """Whether a system reads a feature set, or a fine-tuning beside the backbones that it trains."""
        systems = [*self.fusion.systems.values(), *(self.matrix.systems.values() if self.matrix else ())]
        beside = [
            run.modalities[each] for run in self.finetune.values() for each in run.modalities if each not in run.tuned
        ]
        return name in beside or any(name in system.modalities.values() for system in systems)

    def pick_finetunings(self, names: Sequence[str]) -> dict[str, FinetuneParams]:
        """Fine-tunings by name; all if no name is given.

        Raises:
            UnknownNameError: if there is none of a name.
        """
        for name in names:
            require_known("fine-tuning", name, self.finetune)
        return {name: self.finetune[name] for name in names or self.finetune}

    def feature_sets(self, names: Sequence[str]) -> dict[str, FeatureSetParams]:
        """Feature sets by name; "all" stands for all.

        Raises:
            UnknownNameError: if `params.yaml` has no section for one.
        """
        wanted = dict.fromkeys(name for given in names for name in (self.extract if given == ALL else (given,)))
        for name in wanted:
            if name in BACKBONES and name not in self.extract:
                raise UnknownNameError(
                    f"params.yaml has no section for feature set '{name}' in 'extract', only for {', '.join(self.extract) or 'none'}. "
                    f"Add '{name}: {{weights: …}}' there: a registered name, a path, or 'random'."
                )
            require_known("feature set in section 'extract' of params.yaml", name, self.extract)
        return {name: self.extract[name] for name in wanted}
