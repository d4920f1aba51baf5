"""Random cuts for backbones that read the centre of larger pictures, as the IR-50 of [Zhang2023]: 40 of 48 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.corpus.manifest import Manifest
from extract.backbones import resnet50
from extract.inputs.contract import open_source
from pipelines.endtoend import training
from pipelines.endtoend.augmentation import change_images
from pipelines.endtoend.items import TrialItems
from pipelines.endtoend.settings import ImageChanges
from pipelines.papers.presets import read_preset

IR50 = resnet50.INPUTS["ir50"]
CHANGES = read_preset("zhang2023").finetune["can_valence"].images


def test_cuts_are_parts_of_the_picture_and_one_of_each_window() -> None:
    """Pixel (y, x) of the picture holds y and x."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    picture = torch.stack([y, x, torch.zeros_like(y)], dim=-1).to(torch.uint8)
    windows = torch.arange(200).repeat_interleave(3)
    torch.manual_seed(0)
    cut = change_images(picture.expand(600, 48, 48, 3), windows, CHANGES, 40)
    assert cut.shape == (600, 40, 40, 3)
    corners = set()
    for first, second, third in cut.view(200, 3, 40, 40, 3):
        assert torch.equal(first, second)
        assert torch.equal(second, third)
        mirrored = bool(first[0, 0, 1] > first[0, -1, 1])
        top, left = int(first[0, 0, 0]), int(first[0, :, 1].min())
        part = picture[top : top + 40, left : left + 40]
        assert torch.equal(first, part.flip(1) if mirrored else part), "nothing is resized"
        corners.add((top, left, mirrored))
    assert {top for top, _, _ in corners} == {left for _, left, _ in corners} == set(range(9))
    assert {mirrored for _, _, mirrored in corners} == {False, True}


def test_without_a_cut_the_centre_stays() -> None:
    images = torch.from_numpy(IR50.example(2))
    assert change_images(images, torch.tensor([0, 1]), ImageChanges(), 40) is images


def test_whole_pictures_hold_what_the_backbone_reads(project: Path) -> None:
    manifest = Manifest.load(Path("work/corpus"))
    trial = manifest.trials[0]
    crops = next(path for path in Path("work/crops").iterdir() if not path.name.startswith("."))
    centre, whole = (open_source(kind, manifest, trial, crops) for kind in (IR50, IR50.uncut()))
    items = centre.load().used_items()[:3]
    assert len(whole.load().used_items()) >= len(items) == 3
    assert (whole.read(items)[:, 4:44, 4:44] == centre.read(items)).all()
    assert centre.digest() == whole.digest()


@pytest.mark.parametrize("crop", [0.8333, 1.0])
def test_training_cuts_whole_pictures_and_validation_reads_their_centre(
    run: Callable, edit_params: Callable, monkeypatch: pytest.MonkeyPatch, crop: float
) -> None:
    taught: set[int] = set()
    judged: set[int] = set()

    def change(images: Tensor, windows: Tensor, config: ImageChanges, size: int) -> Tensor:
        taught.add(images.shape[1])
        return change_images(images, windows, config, size)

    def validate(trial: TrialItems, compute: object, dim: int, device: torch.device) -> object:
        judged.add(trial.read(trial.alignment.used_items()[:1]).shape[1])
        return np.zeros((len(trial.alignment.first), dim), np.float32)

    monkeypatch.setattr(resnet50, "STAGES", ((8, 1, 1), (16, 1, 2), (32, 1, 2), (512, 1, 2)))  # a third of its size
    monkeypatch.setattr(training, "change_images", change)
    monkeypatch.setattr(TrialItems, "embed", validate)
    section = {
        "model": "rnn",
        "modalities": {"visual": "resnet50"},
        "images": {"crop": crop, "flip": 0.5},
        "windows": 1,
    }
    section["train"] = {"epochs": 1, "batch_size": 1, "window": 4, "hop": 4}
    edit_params(lambda params: params.update(finetune={"face": section}))
    result = run("finetune")
    assert result.exit_code == 0, result.output
    assert (taught, judged) == ({48 if crop < 1 else 40}, {40})
