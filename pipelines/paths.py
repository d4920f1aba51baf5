"""Where the project's stages leave their files, relative to the project's root."""

from pathlib import Path

PARAMS = Path("params.yaml")
CORPUS = Path("work/corpus")
CROPS = Path("work/crops")
CROPS_RECEIPT = Path("work/crops.json")
WORDS = Path("work/words")
FEATURES = Path("features")
MODELS = Path("work/models")
REPRODUCED = Path("work/reproduce")
PREDICTIONS = Path("work/predictions")
RESULTS = Path("results")


def receipt_path(features: Path, modality: str, backbone: str) -> Path:
    """Receipt of one backbone's extraction; its store lies beside it."""
    return features / modality / f"{backbone}.json"
