"""Peak memory of extraction against the length of the video: a 1-minute and a 10-minute one, crops and MobileFaceNet.

Each length runs in a process of its own. Prints a Markdown table; the ratio should be at most 1.15.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[1]
SECONDS = (60, 600)
_PROGRAM = """
import resource, sys
from pipelines.cli.commands import avfusion
avfusion(["extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", "--weights", "random", "--out", *sys.argv[1:]], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_video(path: Path, seconds: int) -> None:
    """A demo face that moves over the picture, with noise for sound."""
    from extract.corpora.demo.corpus import Config, DemoCorpus

    with tempfile.TemporaryDirectory() as folder:
        DemoCorpus(Config(num_trials=3, num_subjects=3, min_s=4, max_s=4)).generate(Path(folder))
        source = next(Path(folder).rglob("*.mp4"))
        with av.open(str(source)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        for second in range(seconds):
            for i in range(25):
                frame = av.VideoFrame.from_ndarray(pictures[(second * 25 + i) % len(pictures)], format="rgb24")
                container.mux(video.encode(frame))
            samples = (rng.normal(size=(1, 16_000)) * 0.1).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16_000, second * 16_000
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())


def peak_mb(video: Path, out: Path) -> float:
    """Peak resident memory of an extraction in a process of its own, MB."""
    command = [sys.executable, "-c", _PROGRAM, str(out), str(video)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for seconds in SECONDS:
            video = Path(folder) / f"{seconds}s.mp4"
            write_video(video, seconds)
            peaks.append(peak_mb(video, Path(folder) / f"out{seconds}"))
    print("| length | peak RSS, MB | ratio |\n|---|---|---|")
    for seconds, peak in zip(SECONDS, peaks, strict=True):
        print(f"| {seconds // 60} min | {peak:.0f} | {peak / peaks[0]:.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
