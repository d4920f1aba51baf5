"""Many systems from few lines: section `cross` of the matrix, models x encoders x modalities, written out as systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any

from cache.settings import Faults

CROSS = "cross"


def expand(matrix: Any) -> tuple[Any, Faults]:
    """The section `matrix` with the systems of its section `cross` beside its own, which come first.

    `cross` has `models`: name → model, settings and training as of a system (the name is the model if it has none); `encoders`:
    modality → feature sets; and `modalities`: a list of combinations, each a list of modalities, by default all of them. A system
    is called `<name>-<feature set>-<feature set>`.

    Returns:
        The section, and what is wrong with `cross`.
    """
    if not isinstance(matrix, dict) or CROSS not in matrix:
        return matrix, {}
    rest = {key: value for key, value in matrix.items() if key != CROSS}
    faults = _find_faults(matrix[CROSS])
    if faults:
        return {**rest, "systems": rest.get("systems", {})}, faults
    own = rest.get("systems", {})
    return {**rest, "systems": {**dict(_systems(matrix[CROSS])), **(own if isinstance(own, dict) else {})}}, {}


def _systems(cross: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    encoders = cross["encoders"]
    every = [chosen for count in range(1, len(encoders) + 1) for chosen in combinations(encoders, count)]
    for name, model in cross["models"].items():
        for modalities in cross.get("modalities", every):
            for sets in product(*(encoders[modality] for modality in modalities)):
                system = {"model": name, **(model or {}), "modalities": dict(zip(modalities, sets, strict=True))}
                yield "-".join((name, *sets)), system


def _find_faults(cross: Any) -> Faults:
    if not isinstance(cross, dict) or set(cross) - {"models", "encoders", "modalities"}:
        return {f"matrix.{CROSS}": "is no section of 'models', 'encoders' and perhaps 'modalities'"}
    models, encoders = cross.get("models"), cross.get("encoders")
    faults: Faults = {}
    if not isinstance(models, dict) or not all(each is None or isinstance(each, dict) for each in models.values()):
        faults[f"matrix.{CROSS}.models"] = "is no section of models, expected 'rnn: {settings: …}' for each"
    if not isinstance(encoders, dict) or not all(isinstance(each, list) and each for each in encoders.values()):
        faults[f"matrix.{CROSS}.encoders"] = (
            "is no section of lists, expected 'visual: [mobilefacenet]' for each modality"
        )
    elif not isinstance(chosen := cross.get("modalities", []), list) or not all(
        isinstance(each, list) and each and set(map(str, each)) <= set(encoders) for each in chosen
    ):
        faults[f"matrix.{CROSS}.modalities"] = f"is no list of lists of {', '.join(encoders)}"
    return faults
