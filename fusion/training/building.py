"""Build a fusion model by name, with fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache.errors import SettingError
from cache.names import config_of, load_named
from cache.settings import as_settings
from fusion.model import FusionModel
from fusion.models import MODELS


def build_model(name: str, dims: Mapping[str, int], targets: tuple[str, ...], settings: Any) -> FusionModel:
    """Build a fusion model with fresh weights, drawn from torch's global generator.

    Args:
        name: one of `fusion.models.MODELS`.
        dims: modality → embedding dimension, at least one.
        targets: names of the outputs, at least one.
        settings: the model's `Config`, or some of its fields by name; the others keep their defaults.

    Raises:
        UnknownNameError: if there is no such model.
        SettingError: if a setting is unknown, of the wrong type or out of range, if no modality is given, or if the name of
            one is not a word.
    """
    cls = load_named("fusion model", MODELS, name)
    if not dims or not targets:
        raise SettingError(
            f"Model '{name}' has modalities {sorted(dims)} and targets {list(targets)}; expected at least one of each."
        )
    for modality in dims:
        if not modality.isidentifier():
            raise SettingError(
                f"'{modality}' cannot name a modality in a model; use another word of letters, digits and '_'."
            )
    config: Any = as_settings(config_of(MODELS[name]), settings, f"model '{name}'")
    model = cls(dims, tuple(targets), config)
    model.name = name
    return model
