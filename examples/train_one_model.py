"""Train one fusion model on cached features with three lines of settings, and predict the test trials.

python examples/train_one_model.py
"""

from pathlib import Path

from cache.corpus.folds import partition_fold
from cache.corpus.manifest import Manifest
from cache.store.receipt import open_receipt
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.inference import predict
from fusion.training.trainer import train

FEATURES = {"visual": "features/receipts/mobilefacenet.json", "audio": "features/receipts/conv1d.json"}


def main(epochs: int = 5) -> float:
    """Train, print each epoch, and return the best validation CCC."""
    manifest = Manifest.load(Path("work/corpus"))
    stores = {modality: open_receipt(Path(path))[0] for modality, path in FEATURES.items()}
    bank = Bank.from_stores(stores, manifest, [trial.id for trial in manifest.trials])
    fold = partition_fold(manifest)
    result = train(
        bank,
        fold,
        "rnn",
        {"d_model": 64},
        TrainConfig(epochs=epochs),
        on_epoch=lambda epoch: print(f"epoch {epoch.epoch}: loss {epoch.loss:.3f}, validation CCC {epoch.score:.3f}"),
    )
    for prediction in predict(result.checkpoint, bank, fold.test):
        print(f"{prediction.trial_id}: {prediction.values.shape[0]} frames of {', '.join(prediction.targets)}")
    return max(epoch.score for epoch in result.history)


if __name__ == "__main__":
    main()
