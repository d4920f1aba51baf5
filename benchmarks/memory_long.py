"""Peak memory of extraction from 1080p video: 10 minutes against 1, crops and MobileFaceNet.

    python -m benchmarks.memory_long [--minutes 1 10]

The picture is still, which only makes decoding cheaper: all 25 frames per second are decoded, converted, aligned and
embedded, and every fifth one is searched for faces. `benchmarks/memory.py` does the same with a moving 320x240 picture. Each length runs
in a separate process. Prints a Markdown table; the ratio should be at most 1.15.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
SIZE = (1920, 1080)
RATE_HZ = 25
_PROGRAM = """
import resource, sys
from pipelines.cli.commands import avfusion
avfusion(["extract", "--backbone", "mobilefacenet", "--weights", "random", "--out", *sys.argv[1:]], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def draw_picture() -> av.VideoFrame:
    """A demo face on a large picture."""
    from extract.corpora.demo.corpus import Config, DemoCorpus

    with tempfile.TemporaryDirectory() as folder:
        DemoCorpus(Config(num_trials=3, num_subjects=3, min_s=4, max_s=4)).generate(Path(folder))
        with av.open(str(next(Path(folder).rglob("*.mp4")))) as container:
            picture = next(container.decode(video=0)).to_image()
    large = np.asarray(picture.resize(SIZE, Image.Resampling.BILINEAR))
    return av.VideoFrame.from_ndarray(large, format="rgb24").reformat(format="yuv420p")


def write_video(path: Path, minutes: int, picture: av.VideoFrame) -> None:
    """The picture standing still: every frame is decoded, converted, searched and cut all the same, at a few kB each."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "ultrafast", "crf": "32"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        for index in range(minutes * 60 * RATE_HZ):
            picture.pts, picture.time_base = index, 1 / video.codec_context.framerate
            container.mux(video.encode(picture))
        container.mux(video.encode())


def peak_mb(video: Path, out: Path) -> float:
    """Peak resident memory of an extraction in a process of its own, MB."""
    command = [sys.executable, "-c", _PROGRAM, str(out), str(video)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 10])
    options = parser.parse_args()
    picture = draw_picture()
    print("| length at 1080p | peak RSS, MB | ratio | s |\n|---|---|---|---|")
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            video = Path(folder) / f"{minutes}min.mp4"
            write_video(video, minutes, picture)
            start = time.perf_counter()
            peak = peak_mb(video, Path(folder) / f"out{minutes}")
            first = first or peak
            print(
                f"| {minutes} min | {peak:.0f} | {peak / first:.2f} | {time.perf_counter() - start:.0f} |", flush=True
            )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
