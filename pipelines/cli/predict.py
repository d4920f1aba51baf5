"""Command `avfusion predict`."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from cache.errors import with_full_stop
from pipelines.cli.options.common import JSON, names_of
from pipelines.cli.options.kinds import DEVICE, RECOGNISER, FrameRate, Frames
from pipelines.console.console import Command, guarded, note, show

_FORMATS = ("csv", "json", "elan", "vtt")


def _pairs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """SET=PATH, several times."""
    pairs = [value.partition("=") for value in values]
    for (name, _, path), value in zip(pairs, values, strict=True):
        if not name or not path:
            raise click.BadParameter(f"'{value}' is not SET=PATH, such as visual=face.pt.", context, option)
    return {name: Path(path) for name, _, path in pairs}


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A number, which nan and inf are not."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds.", context, option)
    return value


def _chain(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """STEP[,STEP…]."""
    from fusion.training.postprocessing import find_chain_faults

    chain = tuple(step.strip() for step in value.split(",") if step.strip())
    if wrong := find_chain_faults(chain):
        raise click.BadParameter(with_full_stop(f"It {wrong}"), context, option)
    return chain


@click.command("predict", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="RUN",
    shell_complete=names_of("fusion", "systems"),
    help="Folder of a trained run, or a system of the project, which is all its runs, or SYSTEM/foldK/seedN (and /TARGET, where each "
    "target has a network of its own); several are one ensemble.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the answers and a cache."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=("csv",),
    show_default=True,
    type=click.Choice(_FORMATS),
    help="May be repeated.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="SET=PATH",
    callback=_pairs,
    help="Where the weights of a feature set of the model lie (a file, or a folder to search), if they are not found.",
)
@click.option(
    "--recogniser",
    type=RECOGNISER,
    help="For models that read words, of videos without a transcript beside them: pocketsphinx, or vosk:<folder of a model>.  "
    "[default: the one that the model was trained with]",
)
@click.option("--rate", type=FrameRate(), help="Frames per second for sound files without a picture.  [default: 25]")
@click.option(
    "--face",
    default="largest",
    show_default=True,
    help="Which face to follow: largest, centre, left, right, or a picture of the person; all for an answer for each person.",
)
@click.option(
    "--identity",
    default="",
    metavar="NAME|PATH",
    help="Weights that know a person again after a gap or a cut: foamliu, vggface2, or a file.  [default: a cut ends tracks]",
)
@click.option(
    "--overlay",
    metavar="FILE.mp4|FOLDER",
    type=click.Path(path_type=Path),
    help="Also draw on the video: the face, the point of valence and arousal with its trail, and running curves.",
)
@click.option(
    "--plot", metavar="FILE.png|FOLDER", type=click.Path(path_type=Path), help="Also draw the prediction over time."
)
@click.option(
    "--window",
    default="auto",
    show_default=True,
    type=Frames("auto", "train"),
    help="Frames of the windows that predictions are made in: auto for those chosen when the model was trained, train for those of training.",
)
@click.option(
    "--hop",
    default="auto",
    show_default=True,
    type=Frames("auto"),
    help="Frames between their starts, at most a window: auto for what belongs to the windows, of a number a quarter.",
)
@click.option(
    "--postprocess",
    default="",
    metavar="STEP[,STEP…]",
    callback=_chain,
    help="What predictions pass, as evaluate.postprocess in docs/params.md, fitted when the model was trained.  [default: nothing]",
)
@click.option(
    "--live",
    is_flag=True,
    help="Follow one VIDEO that still grows (a recording, a pipe, - for standard input, a camera such as /dev/video0): rows are "
    "written and shown as they are known. Needs a model that only looks back.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    callback=_finite,
    metavar="SECONDS",
    help="With --live: a file that has not grown for so long is finished.  [default: 5]",
)
@click.option("--redo", is_flag=True, help="Write finished answers again.")
@click.option("--device", default="auto", show_default=True, type=DEVICE, help="auto, cpu, cuda or cuda:N.")
@JSON
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...", type=click.Path(path_type=Path))
@guarded
def predict(
    videos: tuple[Path, ...],
    as_json: bool,
    rate: Fraction | None,
    recogniser: str | None,
    live: bool,
    patience: float | None,
    **how: Any,
) -> None:
    """Predict valence and arousal for every frame of new videos with trained models.

    Writes OUT/<name>.csv for each VIDEO: frame, time_s, each target, its spread over the ensemble, and whether face, speech and
    words were seen. Crops, words and features are made as those that the model was trained on, and cached in OUT/cache.
    """
    if live:
        _check_live(videos, as_json, recogniser, **how)
    else:
        _check_finished(videos, patience, how["window"], how["hop"])
    from pipelines.ensembles.finding import find_networks

    find_networks(how["models"])  # a wrong name is refused before torch is loaded
    from pipelines.prediction.prediction import Asked, predict_files, raise_unanswered

    asked = Asked(rate=rate, recogniser=recogniser or "", **how)
    if live:
        from extract.media.growing import PATIENCE_S
        from pipelines.prediction.live import predict_live

        wait_s = PATIENCE_S if patience is None else patience
        try:
            predict_live(videos[0], asked, wait_s, lambda text: click.echo(text, nl=False))
        except KeyboardInterrupt:  # the usual end of a stream, and not to be gone on with
            note("Stopped.")
            sys.exit(130)
        return
    rows, outcome = predict_files(videos, asked)
    show(rows, as_json)
    raise_unanswered(outcome, asked.out)


def _check_finished(videos: tuple[Path, ...], patience: float | None, window: int | str, hop: int | str) -> None:
    """Refuse what needs --live, and windows with gaps between them."""
    from fusion.training.reading import find_hop_fault

    if patience is not None:
        raise click.UsageError("--patience is for --live. Leave it out, or add --live.")
    for video in videos:
        if str(video) == "-":
            raise click.UsageError("'-' is standard input, which is read with --live. Add it, or name a file.")
        if video.exists() and not video.is_file() and not video.is_dir():
            raise click.UsageError(f"'{video}' is no file but a pipe or a device, which is read with --live. Add it.")
    if wrong := find_hop_fault(window, hop):
        raise click.UsageError(f"--hop {wrong}: frames between windows would have no prediction. Choose a smaller one.")


_LIVE_REFUSES = {
    "--format": "rows are written as CSV, as they come",
    "--json": "rows are written as CSV, as they come",
    "--overlay": "pictures are drawn on when the video is finished",
    "--plot": "a plot shows the whole video",
    "--identity": "people are known again after a cut when the whole video is known",
    "--recogniser": "words are recognised when a recording is finished",
    "--window": "the model goes from frame to frame, without windows",
    "--hop": "the model goes from frame to frame, without windows",
    "--postprocess": "post-processing looks at the frames around each one, which are not known yet",
}
"""Option → why it cannot be had with --live."""


def _check_live(videos: tuple[Path, ...], as_json: bool, recogniser: str | None, **how: Any) -> None:
    """Refuse what needs a finished video."""
    if len(videos) != 1:
        raise click.UsageError(f"--live follows one VIDEO, {len(videos)} are given. Start one command for each.")
    given = {
        "--format": how["formats"] != ("csv",),
        "--overlay": how["overlay"] is not None,
        "--plot": how["plot"] is not None,
        "--recogniser": recogniser is not None,
        "--window": how["window"] != "auto",
        "--hop": how["hop"] != "auto",
        "--identity": bool(how["identity"]),
        "--postprocess": bool(how["postprocess"]),
        "--json": as_json,
    }
    if wrong := [option for option, is_given in given.items() if is_given]:
        reasons = "; ".join(f"{option}: {_LIVE_REFUSES[option]}" for option in wrong)
        raise click.UsageError(
            f"--live goes without {' and '.join(wrong)} ({reasons}). Leave that out, or predict the finished file."
        )
