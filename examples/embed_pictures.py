"""Embed pictures with a backbone, without any project: what stage one does to one batch.

python examples/embed_pictures.py
"""

import numpy as np
import torch

from extract.backbones.contract import load_backbone


def main() -> tuple[int, ...]:
    """Embed two grey pictures with seeded random weights."""
    backbone = load_backbone("mobilefacenet", "random")
    size = backbone.recipe().settings["size"]
    pictures = torch.from_numpy(np.full((2, size, size, 3), 127, np.uint8))
    embeddings = backbone.embed(pictures)
    print(f"{backbone.name} {backbone.recipe().fingerprint[:12]}: {tuple(embeddings.shape)}")
    return tuple(embeddings.shape)


if __name__ == "__main__":
    main()
