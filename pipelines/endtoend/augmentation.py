"""Random changes of what backbones read while they are trained: face crops and raw sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.endtoend.settings import ImageChanges, SoundChanges

if TYPE_CHECKING:
    from torchvision.transforms import v2


def change_images(images: Tensor, windows: Tensor, config: ImageChanges, size: int) -> Tensor:
    """Change face crops at random.

    Args:
        images: (N, H, W, 3) uint8, of `size` unless parts are cut out of them.
        windows: (N,) window of each; all crops of one are changed in the same way.
        config: the changes.
        size: height and width of the result, pixels.
    """
    transform = _transform(config, images.shape[1], size)
    if transform is None or not len(images):
        return images
    groups = torch.arange(len(images)) if config.per_frame else windows.cpu()
    sizes = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    return torch.cat([transform(part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for part in images.split(sizes)])


def _transform(config: ImageChanges, side: int, size: int) -> v2.Transform | None:
    """The changes of pictures (…, 3, side, side) to (…, 3, size, size) as one transform, None where there are none."""
    from torchvision.transforms import v2  # seconds that a fine-tuning which is finished already need not wait

    steps: list[v2.Transform] = []
    if config.crop < 1:
        steps += [v2.RandomCrop(round(side * config.crop)), v2.Resize(size, antialias=True)]
    if config.degrees or config.shift or config.zoom:
        scale = (1 - config.zoom, 1 + config.zoom)
        steps.append(
            v2.RandomAffine(
                config.degrees, (config.shift, config.shift), scale, interpolation=v2.InterpolationMode.BILINEAR
            )
        )
    if config.jitter:
        steps.append(v2.ColorJitter(config.jitter, config.jitter, config.jitter))
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    return v2.Compose(steps) if steps else None


def change_sound(pieces: Tensor, windows: Tensor, config: SoundChanges) -> Tensor:
    """Change pieces of sound (N, S) in [-1, 1] at random, each by itself; they stay in that range."""
    if not len(pieces):
        return pieces
    changed = pieces
    if config.swap:
        other = torch.randint(len(pieces), (len(pieces),), device=pieces.device)
        changed = torch.where(_drawn(pieces, config.swap), pieces[other], changed)
    if config.reverse:
        changed = torch.where(_drawn(pieces, config.reverse), changed.flip(1), changed)
    if config.noise:
        changed = changed + config.noise * torch.randn_like(changed)
    if config.uniform_noise:
        changed = changed + config.uniform_noise * torch.rand_like(changed)
    return changed.clamp(-1, 1)


def _drawn(pieces: Tensor, probability: float) -> Tensor:
    """(N, 1) true with this probability."""
    return torch.rand(len(pieces), 1, device=pieces.device) < probability
