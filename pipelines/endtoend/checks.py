"""Checks before fine-tuning: whether a backbone can learn anything."""

from __future__ import annotations

import torch

from cache.corpus.folds import Fold
from cache.errors import CorpusError, SettingError
from extract.backbones.contract import Backbone
from pipelines.endtoend.items import ItemReader


def require_items(modality: str, reader: ItemReader, fold: Fold) -> None:
    """Check that a backbone has something to learn from.

    Raises:
        CorpusError: if no training trial has anything that it reads.
    """
    if not any(len(reader.trial(trial_id).alignment.used_items()) for trial_id in fold.train):
        raise CorpusError(
            f"Modality '{modality}': none of {len(fold.train)} training trials has anything that its backbone reads (a face, sound or a "
            "word). Check media, crops and transcripts, or do not train this modality."
        )


def require_gradient(modality: str, backbone: Backbone) -> None:
    """Check that the rows of a backbone depend smoothly on its weights; rounding, for one, stops every gradient.

    Raises:
        SettingError: if no weight gets a gradient.
    """
    backbone.requires_grad_(True)
    rows = backbone(torch.from_numpy(backbone.input.example(1)))
    (rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum().backward()
    learns = any(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters())
    backbone.zero_grad()
    backbone.requires_grad_(False)
    if not learns:
        raise SettingError(
            f"Modality '{modality}': backbone '{backbone.name}' gives its weights no gradient with these settings (VGGish rounds with "
            "'pca'). Change the settings of its feature set, or do not train it."
        )
