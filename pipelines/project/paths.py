"""Paths of the files that the stages write, relative to the project's root."""

from pathlib import Path
from typing import NamedTuple

PARAMS = Path("params.yaml")
CORPUS = Path("work/corpus")
CORPUS_FILES = Path("work/corpus-files.json")
CORPUS_SEEN = Path("work/corpus-seen.json")  # differs between machines, so not an output of a stage
PEOPLE = Path("work/people")  # of videos with a trial for each, and who is who
CODE_SEEN = Path("work/code-seen.json")  # only saves time
PLAN = Path("work/plan")
CROPS = Path("work/crops")
CROPS_RECEIPT = Path("work/crops.json")
WORDS = Path("work/words")
FEATURES = Path("features")
MODELS = Path("work/models")
NETWORKS = Path("work/networks")
SEARCHES = Path("work/search")  # a folder each: trials, the runs of their networks, what the engine keeps
FINETUNED = Path("work/finetuned")
SETS = "sets"  # folder in FINETUNED with a file for each feature set
FINETUNINGS = Path("work/finetunings")  # each kept once, and the states of those that were interrupted
FRONTS = Path("work/fronts")  # what frozen fronts made of trials while backbones were fine-tuned
FINETUNING_HISTORY = Path("results/finetuning.csv")
REPRODUCED = Path("work/reproduce")
REFINETUNED = Path("work/reproduce/finetuned")  # names of a paper's fine-tunings, as in FINETUNED
PREDICTIONS = Path("work/predictions")
RESULTS = Path("results")
_KEPT = ".keep"


class Outputs(NamedTuple):
    """The results of training and evaluating a section of `params.yaml`."""

    models: Path
    history: Path
    predictions: Path
    scores: Path
    metrics: Path | None  # what `dvc metrics` and `dvc exp show` list
    systems: Path


PROJECT = Outputs(
    MODELS, RESULTS / "history.csv", PREDICTIONS, RESULTS / "scores.json", RESULTS / "metrics", RESULTS / "systems.csv"
)  # of section `fusion`
MATRIX = Outputs(
    Path("work/matrix/models"),
    Path("work/matrix/history.csv"),
    Path("work/matrix/predictions"),
    RESULTS / "scores-matrix.json",
    None,  # too many for a table of experiments: see `avfusion compare`
    RESULTS / "systems-matrix.csv",
)  # of section `matrix`


def leave_folder(folder: Path) -> None:
    """Make sure that a folder exists and is not empty, as DVC demands of outputs even if there was nothing to do."""
    if not (folder / _KEPT).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _KEPT).touch()
