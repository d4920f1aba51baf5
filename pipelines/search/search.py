"""The search of a system's settings: its stages, one after the other, with the engine that runs their trials.

As [Karas2022, Section 4.2] did, features and architecture are chosen first, every combination once with its default settings; then the
parameters of the best one, with learning rate and weights of the losses. Without section `architecture` in the space there is one stage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from cache.corpus.manifest import Manifest
from cache.documents.documents import Document, read_document, write_document
from cache.errors import CorpusError, SettingError
from cache.names import load_named
from cache.places.folders import Where, is_file
from cache.store.feature_sets import find_set
from cache.store.locks import Claim, claim
from extract.extras import import_extra
from pipelines.console.console import note, progress, warn
from pipelines.project import paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.jobs import available_cores
from pipelines.project.params import FusionParams, SystemParams
from pipelines.project.runs import Digests
from pipelines.search import ENGINES
from pipelines.search.records import Trial, best_of, folder_of, list_trials
from pipelines.search.spaces import Choice, Domains, Point, Space, as_cell, find_space
from pipelines.search.trial import Stage, Task, change_system
from pipelines.training.features import open_stores
from pipelines.training.folds import choose_folds, refuse_leaks

ARCHITECTURE, PARAMETERS = "architecture", "parameters"
_AGAIN = "Run 'avfusion tune' with --redo, or with another --name; networks are kept either way."


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        space: name or file of a search space; "" for that of the system's model.
        engine: one of `ENGINES`; "" for ray where it is installed, else optuna.
        address: of an existing Ray cluster.
        trials: how many, of all stages.
        epochs: at most so many in a trial.
        grace: epochs before a trial may be stopped.
        factor: of so many trials that get there, one goes on.
        workers: processes; 0 for one per core.
        seed: of what is drawn.
        name: of the search; "" for that of the system.
        redo: whether to begin again.
    """

    space: str = ""
    engine: str = ""
    address: str = ""
    trials: int = 20
    epochs: int = 10
    grace: int = 2
    factor: int = 2
    workers: int = 0
    seed: int = 0
    name: str = ""
    redo: bool = False


class _Plan(Document):
    """What a search must keep to when it goes on.

    Attributes:
        said: what it is → a text to compare.
    """

    said: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of a search.

    Attributes:
        trials: of all stages, the best one first.
        best: the best one; None if all failed.
        system: the system with its settings.
        stage: the last stage.
        domains: its parameters.
    """

    trials: list[Trial]
    best: Trial | None
    system: SystemParams | None
    stage: str
    domains: Domains


def tune(params: FusionParams, system: str, options: Options, features: Where = paths.FEATURES) -> Outcome:
    """Search for the settings of a system on the validation trials of its first fold; goes on where it was killed.

    Args:
        params: section `fusion`.
        system: name of the system to start from.
        options: how to search.
        features: folder or URL of all features.

    Returns:
        The trials, and the best of them.

    Raises:
        UnknownNameError: if there is no such system or space.
        SettingError: if the space does not fit, the search was begun in another way, or the engine is not installed.
        AvFusionError: whatever loading raises.
    """
    base = params.pick([system])[system]
    if len(base.train.networks()) > 1:
        raise SettingError(
            f"System '{system}' trains a network per target, expected one for all in a trial. Search each target apart, with "
            "'train: {per_target: false, targets: [valence]}'."
        )
    options = replace(options, name=options.name or system, engine=choose_engine(options))
    space = find_space(options.space, base.model)
    for model in space.architecture["model"].options if "model" in space.architecture else (base.model,):
        space.parameters(model, base.modalities)  # refused now, not after a first stage
    manifest = load_corpus()
    fold = choose_folds(params.folds, manifest)[0]
    refuse_leaks({system: base}, [fold], manifest, features)
    workers = options.workers or max(1, available_cores() // params.threads)
    own = replace(params, workers=workers, tracker="")
    task = Task(options.name, system, base, own, fold, options.epochs, features)
    folder = folder_of(options.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claim(folder.parent, options.name) or _refuse(options.name):
        if options.redo and folder.exists():
            shutil.rmtree(folder)
        _begin(task, space, options, manifest)
        return _run_stages(task, space, options, workers)


def choose_engine(options: Options) -> str:
    """The engine that was asked for, or else Ray where it is installed.

    Raises:
        SettingError: if it is not installed, or an address is given to an engine without clusters.
    """
    engine = options.engine or ("ray" if options.address or find_spec("ray") else "optuna")
    if not find_spec(engine):
        import_extra(engine, engine, f"The search with --engine {engine}")
    if options.address and engine != "ray":
        raise SettingError(f"Engine '{engine}' has no cluster at '{options.address}'. Leave out --address, or use ray.")
    return engine


def _refuse(name: str) -> Claim:
    raise SettingError(f"Another process is at the search '{name}'. Wait for it, or give another --name.")


def _run_stages(task: Task, space: Space, options: Options, workers: int) -> Outcome:
    base = task.base
    first: list[Trial] = []
    points: tuple[Point, ...]
    domains: Domains
    if space.architecture:
        points = _choose_architectures(task, space, max(1, options.trials // 2))
        domains = {name: Choice(tuple(dict.fromkeys(point[name] for point in points))) for name in points[0]}
        _run(task, Stage(ARCHITECTURE, domains, points, len(points), *_rules(options)), options, workers)
        first = list_trials(options.name, ARCHITECTURE)
        best = best_of(first)
        if best is None:
            raise CorpusError(f"All {len(first)} trials failed; the first one: {first[0].reason}")
        base = change_system(base, best.point)
        note(f"Features and architecture: {_say(best.point)}, CCC {best.ccc:.3f} in {len(first)} trials.")
    domains = space.parameters(base.model, base.modalities)
    own = {name: _value_of(base, name) for name in domains}
    inside = all(domain.holds(own[name]) for name, domain in domains.items())
    points = ({name: as_cell(value) for name, value in own.items()},) if inside else ()
    count = max(1, options.trials - len(first))
    stage = Stage(PARAMETERS, domains, points, count, *_rules(options))
    _run(replace(task, base=base), stage, options, workers)
    trials = sorted([*first, *list_trials(options.name, PARAMETERS)], key=lambda trial: -trial.ccc)
    found = best_of(trials)
    before = task.base if found is not None and found.stage == ARCHITECTURE else base
    return Outcome(trials, found, None if found is None else change_system(before, found.point), PARAMETERS, domains)


def _rules(options: Options) -> tuple[int, int, int]:
    return options.grace, options.factor, options.seed


def _run(task: Task, stage: Stage, options: Options, workers: int) -> None:
    missing = stage.count - len(list_trials(task.search, stage.name))
    if missing <= 0:
        return
    if missing < stage.count:
        note(f"{stage.count - missing} of {stage.count} trials of stage '{stage.name}' are there already.")
    run: Callable[..., None] = load_named("engine", ENGINES, options.engine)
    with progress(f"searching {stage.name}", stage.count) as advance:
        run(task, stage, min(workers, stage.count), options.address, advance)


def _choose_architectures(task: Task, space: Space, most: int) -> tuple[Point, ...]:
    """The combinations whose features are there, the system's own first; at most so many."""
    found: list[Point] = []
    absent: dict[str, None] = {}
    for point in space.architectures():
        sets = [name for key, name in point.items() if key.startswith("modalities.")]
        lacking = [name for name in map(str, sets) if not is_file(find_set(task.features, name).receipt)]
        absent |= dict.fromkeys(lacking)
        unknown = [key for key in point if key.startswith("modalities.") and key[11:] not in task.base.modalities]
        known = {key: value for key, value in point.items() if key not in unknown}
        if not lacking and known not in found:
            found.append(known)
    if absent:
        warn(f"Space '{space.name}' names feature sets that are not extracted and left out: {', '.join(absent)}.")
    if not found:
        raise SettingError(
            f"None of the feature sets of space '{space.name}' is extracted. Run 'extract-features', or edit it."
        )
    own = {key: _value_of(task.base, key) for key in found[0]}
    found.sort(key=lambda point: point != own)
    if len(found) > most:
        note(
            f"{most} of {len(found)} combinations of features and architecture are tried; all with --trials {2 * len(found)}."
        )
    return tuple(found[:most])


def _value_of(system: SystemParams, name: str) -> Any:
    """What a system has for a parameter."""
    from fusion.scores.losses import LAMBDA_CE

    found: Any = asdict(system)
    if name == "train.lambda_ce" and found["train"]["lambda_ce"] is None:
        return LAMBDA_CE
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _say(point: Point) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in point.items())


def _begin(task: Task, space: Space, options: Options, manifest: Manifest) -> None:
    """Note what decides the search, or check that it is the same.

    Raises:
        SettingError: if it was begun in another way.
    """
    digests = Digests(task.params, manifest, lambda names, fold: open_stores(task.features, names, manifest, fold))
    said = {
        "space": json.dumps([space.name, str(space.models), str(space.architecture)]),
        "system, number of epochs, features or code": digests(task.job({}, options.epochs)),
        "engine": options.engine,
        "way to stop": f"{options.grace} {options.factor}",
        "seed": str(options.seed),
    }
    path = folder_of(options.name) / "search.json"
    before = read_document(path, _Plan, _AGAIN, SettingError)
    if before is None:
        write_document(path, _Plan, {"said": said})
        return
    other = [name for name, value in said.items() if before.said.get(name) != value]
    if other:
        raise SettingError(f"Search '{options.name}' was begun with another {', '.join(other)}. {_AGAIN}")
