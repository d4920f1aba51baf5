"""Read features of the project: what is in the store, and one trial's embeddings.

python examples/read_features.py features/receipts/mobilefacenet.json
"""

import sys
from pathlib import Path

from cache.store.receipt import open_receipt


def main(path: str) -> None:
    """Print every trial with its length and how much of it the backbone saw."""
    store, receipt = open_receipt(Path(path))
    print(f"{receipt.recipe.name}: {receipt.recipe.dim} dimensions, weights {receipt.recipe.weights_sha256[:16]}")
    for trial_id in receipt.trials:
        embeddings, valid = store.read(trial_id)
        print(f"  {trial_id}: {len(embeddings)} frames, {valid.mean():.0%} seen")


if __name__ == "__main__":
    main(sys.argv[1])
