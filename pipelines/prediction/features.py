"""Features of new videos by the recipes of a model: crops, words and embeddings, each cached in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, MissingFileError, SettingError
from cache.foreign import sha256_file
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone
from extract.corpora.reading import TRANSCRIPTS
from extract.engine.cropping import croppable, crops_folder
from extract.engine.embedding import EngineOptions, extract_features
from extract.faces.settings import CropConfig
from extract.inputs.contract import GIVEN, require_medium
from extract.media.container import find_sound
from fusion.training.checkpoint import Checkpoint
from pipelines.console.console import progress, warn
from pipelines.stages.crops import Remedies, make_crops
from pipelines.stages.transcripts import Recordings, transcribe_all

SEEN = {"video": "face", "audio": "speech", "words": "words"}
"""Medium → heading of the column that says whether the model saw it."""
_REMEDIES = Remedies(
    "Give --identity foamliu to follow the person over cuts.",
    "Give --face centre, a picture of the person, or --face all for an answer for each person.",
)


@dataclass
class FeatureMaker:
    """Makes what models read of new videos.

    Attributes:
        folder: the cache; everything in it is made again if its video or its recipe is another.
        device: auto, cpu, cuda or cuda:N.
        recogniser: of speech, where it is not that of the recipe; "" for that one.
        failures: trial id → why its features could not be made.
        seen: fingerprint → heading of the column of what the model saw.
        crops: settings of the crops, None if there are none.
        identity: what knows a person again after a gap or a cut, see `CropConfig`.
    """

    folder: Path
    device: str = "auto"
    recogniser: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    crops: CropConfig | None = None
    identity: str = ""

    def make(
        self, manifest: Manifest, recipes: Mapping[str, tuple[str, Recipe]], build: Callable[[str, Recipe], Backbone]
    ) -> Manifest:
        """Make the features of every trial that does not fail; those of sound or pictures that a file lacks are of no frame.

        Args:
            manifest: the videos.
            recipes: fingerprint → modality and recipe.
            build: builds the backbone of a modality's recipe.

        Returns:
            The manifest with the transcripts that were made.

        Raises:
            WeightsError: if weights are not found or are not those of a recipe.
            FingerprintError: if this version would make different features.
            SettingError: if nobody knows how to transcribe.
        """
        for key, (modality, recipe) in recipes.items():
            backbone = build(modality, recipe)  # one at a time, as each may fill gigabytes
            media = backbone.input.media
            self.seen[key] = what_is_seen(modality, backbone)
            if "words" in media:
                manifest = self._transcribe(manifest, recipe)
                self._require_words(manifest, backbone)
            crops = None
            if "crops" in media and croppable(self._left(manifest)):
                crops = self._crop(manifest, modality, recipe)
            self._embed(manifest, backbone, recipe, crops)
        return manifest

    def open_store(self, recipe: Recipe) -> FeatureStore:
        """The features of a recipe."""
        return FeatureStore(self._store(recipe), recipe.fingerprint)

    def find_stores(self, network: Checkpoint) -> dict[str, FeatureStore]:
        """The features of a network."""
        return {modality: self.open_store(recipe) for modality, recipe in network.recipes.items()}

    def _store(self, recipe: Recipe) -> Path:
        return self.folder / "features" / f"{recipe.name}.zarr"

    def _left(self, manifest: Manifest) -> list[Trial]:
        return [trial for trial in manifest.trials if trial.id not in self.failures]

    def _crop(self, manifest: Manifest, modality: str, recipe: Recipe) -> Path:
        """Make crops with the settings of a recipe; returns their folder."""
        config = self.crops = replace(choose_crops(modality, recipe), identity=self.identity)
        root = self.folder / "crops"
        left = replace(manifest, trials=tuple(self._left(manifest)))
        outcome = make_crops(left, config, root, self.device, remedies=_REMEDIES)
        self.failures |= outcome.failures
        return crops_folder(root, config)

    def _transcribe(self, manifest: Manifest, recipe: Recipe) -> Manifest:
        """Transcribe trials without words of their own, as the recipe says."""
        lacking = [trial for trial in self._left(manifest) if "words" not in trial.media]
        if not lacking:
            return manifest
        made_by = (recipe.upstream or {}).get("words", GIVEN)
        if not self.recogniser and (made_by == GIVEN or len(made_by) != 1):
            return manifest  # `require_medium` says what to do
        how = {"punctuation": ""} if made_by == GIVEN else made_by[0]
        recogniser = self.recogniser or how["recogniser"]
        if recogniser.startswith("vosk:") and not Path(recogniser.partition(":")[2]).expanduser().is_dir():
            raise SettingError(
                f"The model's words were recognised by '{recogniser}', whose folder is not known here. Say where it lies with "
                "--recogniser vosk:<folder>, or put a transcript beside each video."
            )
        folder = self.folder / "words" / recogniser.replace("/", "_").replace(":", "_")
        places = {}
        for trial in lacking:
            sound = manifest.path(trial, "audio")
            places[trial.id] = (sound, folder / f"{sha256_file(sound)[:32]}.json")
        outcome = transcribe_all(Recordings(folder, places), recogniser, how["punctuation"])
        self.failures |= outcome.failures
        heard = {trial_id: transcript.absolute().as_posix() for trial_id, (_, transcript) in places.items()}
        trials = tuple(
            replace(trial, media={**trial.media, "words": heard[trial.id]}) if trial.id in heard else trial
            for trial in manifest.trials
        )
        return replace(manifest, trials=trials)

    def _require_words(self, manifest: Manifest, backbone: Backbone) -> None:
        """Fail trials without words; there is a remedy, while a video without sound or a face is what it is."""
        for trial in self._left(manifest):
            try:
                require_medium(manifest, [trial], backbone.input)
            except MissingFileError:
                self.failures[trial.id] = (
                    f"'{manifest.path(trial, 'audio')}' has no words, and nobody knows how the model's were recognised. Give --recogniser "
                    f"pocketsphinx, or put a transcript beside it, such as '{trial.id}{TRANSCRIPTS[0]}'."
                )
            except AvFusionError as error:
                self.failures[trial.id] = str(error)

    def _embed(self, manifest: Manifest, backbone: Backbone, recipe: Recipe, crops: Path | None) -> None:
        """Compute missing embeddings; no frame of a file has input from a medium that the file lacks."""
        trials = tuple(_drop_absent_sound(manifest, trial) for trial in self._left(manifest))
        if not trials:
            return
        manifest = replace(manifest, trials=trials)
        path = self._store(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        options = EngineOptions(device=self.device, precision=recipe.settings.get("precision", "fp32"))
        with progress(backbone.name, sum(trial.clock.num_frames for trial in trials)) as advance:
            outcome = extract_features(
                backbone,
                FeatureStore.create(path, recipe),
                manifest,
                trials,
                crops,
                options,
                lambda trial_id, frames: advance(frames, trial_id),
            )
        self.failures |= outcome.failures


def _drop_absent_sound(manifest: Manifest, trial: Trial) -> Trial:
    """A loose file's trial without `audio` if it is a video without sound."""
    if (
        "video" not in trial.media
        or "audio" not in trial.media
        or find_sound(manifest.path(trial, "audio")) is not None
    ):
        return trial
    return replace(trial, media={kind: place for kind, place in trial.media.items() if kind != "audio"})


def what_is_seen(modality: str, backbone: Backbone) -> str:
    """Heading of the column that says whether a model saw what a backbone reads."""
    return SEEN.get(backbone.input.media[-1], modality)


def sort_seen(seen: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """The columns of what was seen, in the order of SEEN, then others."""
    order = list(SEEN.values())
    return {name: seen[name] for name in sorted(seen, key=lambda name: (*order, name).index(name))}


def choose_crops(modality: str, recipe: Recipe) -> CropConfig:
    """Settings of the crops that a recipe's backbone reads; our defaults, with a warning, where they came with the corpus."""
    document = (recipe.upstream or {}).get("crops", GIVEN)
    if document != GIVEN:
        return CropConfig.from_document(document)
    warn(
        f"The model's features '{modality}' are of crops that came with their corpus, so nobody knows how these were made; "
        "those of new videos are cropped by our own defaults."
    )
    return CropConfig()
