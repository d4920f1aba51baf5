"""Files for challenges: written from trained runs in the sample's order and count, and checked line by line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError, SettingError, StoreError
from cache.targets import AFFECT, Target
from pipelines.project.corpus_files import load_corpus
from pipelines.submission import abaw, muse

HEADER = "image_location,valence,arousal\n"
TRIALS = {"video59": 3, "video59_right": 2, "10-60-1280x720": 4}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(
        tmp_path, tuple(Trial(name, name, "test", FrameClock(Fraction(4), count), {}) for name, count in TRIALS.items())
    )


@pytest.fixture
def predictions() -> dict[str, np.ndarray]:
    """Trial → valence 0.1 i, arousal 1 - i in frame i."""
    return {
        name: np.stack([0.1 * np.arange(count), 1 - np.arange(count)], axis=1).astype(np.float32)
        for name, count in TRIALS.items()
    }


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_rows_are_those_of_the_sample_in_its_order(tmp_path: Path, manifest: Manifest, predictions: dict) -> None:
    rows = (
        "video59_right/00002.jpg,0,0",
        "10-60-1280x720/00001.jpg",
        "video59_right/00001.jpg,,",
        "video59/00005.jpg,0,0",
    )
    sample = abaw.read_sample(write(tmp_path / "sample.txt", *rows))
    abaw.check_trials(sample, manifest, tmp_path / "sample.txt")
    out = tmp_path / "deep" / "out.txt"
    assert abaw.write(out, sample, predictions, manifest) == {"rows": 4, "trials": 3, "repeated": 1, "clipped": 0}
    assert out.read_text().splitlines() == [
        HEADER.strip(),
        "video59_right/00002.jpg,0.100000,0.000000",
        "10-60-1280x720/00001.jpg,0.000000,1.000000",
        "video59_right/00001.jpg,0.000000,1.000000",
        "video59/00005.jpg,0.200000,-1.000000",  # of three frames
    ]
    assert abaw.check(out, sample) == 4


def test_values_are_clipped(tmp_path: Path, manifest: Manifest, predictions: dict) -> None:
    sample = abaw.read_sample(write(tmp_path / "sample.txt", "10-60-1280x720/00004.jpg"))
    assert abaw.write(tmp_path / "out.txt", sample, predictions, manifest)["clipped"] == 1
    assert (tmp_path / "out.txt").read_text().endswith(".jpg,0.300000,-1.000000\n")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), "frame 0"),
        (("video59/1.jpg", "video59/1.jpg"), "line 3: 'video59/1.jpg' stands in line 2 already"),
        (("video59/00000.jpg",), "line 2: 'video59/00000.jpg', expected TRIAL/00001.jpg"),
        (("video59",), "line 2: 'video59'"),
    ],
)
def test_no_sample(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    path = write(tmp_path / "sample.txt", *rows, header=HEADER if rows else "frame 0\n")
    with pytest.raises(CorpusError) as caught:
        abaw.read_sample(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ["image_location,expression", "image_location,valence", "image_location,arousal,valence", HEADER.strip() + ",AU1"],
)
def test_the_sample_of_another_track_is_refused(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "sample.txt", "video59/1.jpg", header=f"{header}\n")
    with pytest.raises(CorpusError, match=f"starts with '{header}', expected 'image_location,valence,arousal' or"):
        abaw.read_sample(path)


def test_a_sample_needs_rows_but_no_values(tmp_path: Path) -> None:
    alone = "image_location\n"
    assert abaw.read_sample(write(tmp_path / "sample.txt", "a/1.jpg", header=alone)).locations == ["a/1.jpg"]
    for header in (HEADER, alone):
        with pytest.raises(CorpusError, match="has no rows"):
            abaw.read_sample(write(tmp_path / "sample.txt", header=header))


def test_trials_that_the_corpus_lacks(tmp_path: Path, manifest: Manifest) -> None:
    sample = abaw.read_sample(write(tmp_path / "sample.txt", "video59_left/1.jpg", "video59/1.jpg"))
    with pytest.raises(CorpusError, match=r"1 of 2 trials .*'video59_left'.* corpus\.root"):
        abaw.check_trials(sample, manifest, tmp_path / "sample.txt")
    other = Manifest(tmp_path, (), (Target("valence"),))
    with pytest.raises(CorpusError, match="no target arousal"):
        abaw.check_trials(sample, other, tmp_path / "sample.txt")


FAULTY = {
    "other order": (
        ["a/2.jpg,0,0", "a/1.jpg,0,0"],
        HEADER,
        ["line 2: 'a/2.jpg', expected 'a/1.jpg'", "line 3: 'a/1.jpg'"],
    ),
    "too few": (["a/2.jpg,0,0"], HEADER, ["lacks 1 of the 2 rows of the sample: 'a/1.jpg'\n"]),
    "too many": (["a/3.jpg,0,0", "a/1.jpg,0,0", "a/2.jpg,0,0"], HEADER, ["line 2: 'a/3.jpg' is not in the sample"]),
    "twice": (["a/1.jpg,0,0", "a/1.jpg,0,0", "a/2.jpg,0,0"], HEADER, ["line 3: 'a/1.jpg' stands in line 2 already"]),
    "another": (
        ["a/1.jpg,0,0", "", "a/3.jpg,7,0"],
        HEADER,
        ["rows of the sample: 'a/2.jpg'\n", "line 4: 'a/3.jpg' is not in the sample", "line 4: valence '7'"],
    ),
    "header": (["a/1.jpg,0,0", "a/2.jpg,0,0"], "image,valence,arousal\n", ["line 1: 'image,valence,arousal'"]),
    "range": (["a/1.jpg,0,1.5", "a/2.jpg,-2,0"], HEADER, ["line 2: arousal '1.5'", "line 3: valence '-2'"]),
    "numbers": (["a/1.jpg,nan,0", "a/2.jpg,0,x"], HEADER, ["line 2: valence 'nan'", "line 3: arousal 'x'"]),
    "columns": (["a/1.jpg,0", "a/2.jpg,0,0,0"], HEADER, ["line 2: 1 values, expected 2", "line 3: 3 values"]),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_every_fault_of_a_file_is_named(tmp_path: Path, fault: str) -> None:
    sample = abaw.read_sample(write(tmp_path / "sample.txt", "a/1.jpg", "a/2.jpg"))
    rows, header, said = FAULTY[fault]
    with pytest.raises(CorpusError) as caught:
        abaw.check(write(tmp_path / "own.txt", *rows, header=header), sample)
    assert all(text in str(caught.value) for text in said), str(caught.value)
    assert f"has {len(said)} fault" in str(caught.value)


def test_of_many_faults_the_first_are_shown_and_all_counted(tmp_path: Path) -> None:
    names = [f"a/{number}.jpg" for number in range(1, 101)]
    sample = abaw.read_sample(write(tmp_path / "sample.txt", *names))
    with pytest.raises(CorpusError, match=r"(?s)has 100 faults.*line 2:.*line 21:.*and 80 more") as caught:
        abaw.check(write(tmp_path / "own.txt", *(f"{name},0,7" for name in names)), sample)
    assert "line 22:" not in str(caught.value)


def test_rows_that_are_missing_are_named_first_and_shift_no_others(tmp_path: Path) -> None:
    names = [f"a/{number}.jpg" for number in range(1, 101)]
    sample = abaw.read_sample(write(tmp_path / "sample.txt", *names))
    with pytest.raises(CorpusError) as caught:
        abaw.check(write(tmp_path / "own.txt", *(f"{name},0,0" for name in names[5:])), sample)
    assert "has 1 fault:" in str(caught.value)
    assert "lacks 5 of the 100 rows of the sample: 'a/1.jpg', 'a/2.jpg', 'a/3.jpg' and 2 more\n" in str(caught.value)


def test_only_predictions_are_replaced(tmp_path: Path) -> None:
    sample, own = write(tmp_path / "sample.txt", "a/1.jpg"), write(tmp_path / "own.txt", "a/1.jpg,0,0")
    (tmp_path / "link.txt").symlink_to(sample)
    params = write(tmp_path / "params.yaml", header="corpus: {}\n")
    for out in (own, tmp_path / "new" / "out.txt"):
        abaw.check_out(out, sample)
    for out, said in (
        (sample, "the sample itself"),
        (tmp_path / "link.txt", "the sample itself"),
        (params, "does not start with"),
        (write(tmp_path / "other", header="image_location,valence,arousal,AU1\n"), "does not start with"),
        (tmp_path, "is a folder"),
        (params / "deep" / "x.txt", f"'{params}' is a file, expected a folder"),
    ):
        with pytest.raises(StoreError, match=said) as caught:
            abaw.check_out(out, sample)
        assert "Name" in str(caught.value)


def test_only_folders_of_targets_are_written_into(tmp_path: Path, manifest: Manifest) -> None:
    folder = tmp_path / "out"
    muse.check_out(folder, manifest)
    (folder / "arousal").mkdir(parents=True)
    muse.check_out(folder, manifest)
    write(folder / "valence")
    (tmp_path / "label_segments").mkdir()
    for out, said in (
        (folder, "holds 'valence', expected only folders of the targets valence, arousal"),
        (folder / "valence", "is a file"),
        (folder / "valence" / "deep", "is a file"),
        (tmp_path, "holds 'label_segments'"),
        (tmp_path / "label_segments", "labels of the corpus"),
    ):
        with pytest.raises(StoreError, match=said):
            muse.check_out(out, manifest)


def test_what_submit_refuses_before_it_predicts(
    project: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.submit._predict", lambda *_, **__: pytest.fail("predicted"))
    monkeypatch.setattr("pipelines.ensembles.finding.find_networks", lambda runs: named.append(list(runs)))
    named: list[list[str]] = []
    write(project / "sample.txt", *(f"{trial.id}/00001.jpg" for trial in load_corpus().trials))
    write(project / "afile")
    sample, before = ("abaw", "--sample", "sample.txt"), Path("params.yaml").read_bytes()
    for options, code, said in (
        ((*sample, "--runs", "a, b", "--out", "."), 2, "is a directory"),
        ((*sample, "--runs", "a, b", "--out", ""), 1, "is a folder"),
        ((*sample, "--runs", "a, b", "--out", "afile/x.txt"), 1, "'afile' is a file"),
        ((*sample, "--runs", "a, b", "--out", "sample.txt"), 1, "the sample itself"),
        ((*sample, "--runs", "a, b", "--out", "params.yaml"), 1, "does not start with"),
        (("muse", "--partition", "train", "--runs", "a, b", "--out", "afile"), 2, "is a file"),
        (("muse", "--partition", "train", "--runs", "a, b", "--out", "."), 1, "expected only folders of the targets"),
        ((*sample, "--runs", ""), 2, "names nothing"),
        ((*sample, "--runs", " , "), 2, "names nothing"),
    ):
        result = run("submit", *options)
        assert result.exit_code == code, result.output
        assert said in " ".join(result.stderr.split()), (options, result.stderr)
    assert named
    assert all(runs == ["a", "b"] for runs in named)
    assert Path("params.yaml").read_bytes() == before


def test_the_form_of_muse(tmp_path: Path, predictions: dict) -> None:
    targets = (AFFECT[0], Target("arousal", low=0.0, high=0.5))
    trials = tuple(Trial(n, n, "test", FrameClock(Fraction(2), count, 1.0), {}) for n, count in TRIALS.items())
    manifest = Manifest(tmp_path, trials, targets)
    folder = tmp_path / "out"
    assert muse.write(folder, predictions, manifest) == {"files": 6, "rows": 18, "clipped": 6}
    assert (folder / "arousal/video59.csv").read_text() == (
        "timestamp,value\n1000,0.500000\n1500,0.000000\n2000,0.000000\n"
    )
    assert muse.check(folder, list(TRIALS), manifest) == 6


def test_every_fault_of_every_file_of_muse_is_named(tmp_path: Path, predictions: dict) -> None:
    trials = tuple(Trial(n, n, "test", FrameClock(Fraction(2), count, 1.0), {}) for n, count in TRIALS.items())
    manifest = Manifest(tmp_path, trials, (*AFFECT, Target("liking"), Target("trust")))
    folder = tmp_path / "out"
    values = {name: np.concatenate([found, found], axis=1)[:, [0, 1, 2]] for name, found in predictions.items()}
    muse.write(folder, values, Manifest(tmp_path, trials, manifest.targets[:3]))
    (folder / "arousal/video59.csv").write_text("timestamp,value\n1000,1.7\n1600,0.1,3\n")
    (folder / "liking/video59.csv").write_text("time,value\n1100,0\n1600,0\n2000,x\n")
    (folder / "liking/video59_right.csv").write_bytes(b"timestamp,value\n\xff")
    (folder / "liking/10-60-1280x720.csv").write_text("timestamp,value\n1500,0\n2000,0\n2500,0\n")
    (folder / "valence/video59.csv").rename(folder / "valence/other.csv")
    (folder / "notes").mkdir()
    said = (
        "notes: is no target, expected folders valence, arousal, liking, trust",
        "valence/other.csv: must not be there",
        "valence/video59.csv: is missing",
        "arousal/video59.csv line 3: is the last of 2 rows, expected 3",
        "arousal/video59.csv line 2: '1.7'",
        "arousal/video59.csv line 3: 3 cells",
        "liking/video59.csv line 1: 'time,value'",
        "liking/video59.csv line 2: '1100', expected a number from 999 to 1001",
        "liking/video59.csv line 3: '1600'",
        "liking/video59.csv line 4: 'x'",
        "liking/video59_right.csv: ",
        "liking/10-60-1280x720.csv line 4: is the last of 3 rows, expected 4",
        "liking/10-60-1280x720.csv line 2: '1500'",
        "trust: is missing",
    )
    with pytest.raises(CorpusError) as caught:
        muse.check(folder, list(TRIALS), manifest)
    assert [text for text in said if f"\n  {text}" not in str(caught.value)] == []
    assert f"'{folder}' has {len(said)} faults:\n" in str(caught.value)
    (folder / "arousal/video59.csv").write_text("timestamp,value\n" + "7\n" * 30)
    (folder / "valence/video59_right.csv").unlink()
    with pytest.raises(CorpusError, match=f"has {len(said) + 29} faults") as caught:
        muse.check(folder, list(TRIALS), manifest)
    others = [text for text in said if "arousal/" not in text]
    assert [
        text for text in (*others, "valence/video59_right.csv: is missing") if f"\n  {text}" not in str(caught.value)
    ] == []
    assert "\n  arousal/video59.csv: and 25 more\n" in str(caught.value)
    shutil.rmtree(folder)
    with pytest.raises(CorpusError, match=f"'{folder}' does not exist, expected a folder with"):
        muse.check(folder, list(TRIALS), manifest)
    folder.mkdir()
    with pytest.raises(
        CorpusError, match="has no folder 'valence' or 'arousal' or 'liking' or 'trust', expected at least"
    ):
        muse.check(folder, list(TRIALS), manifest)


def test_from_trained_runs(project: Path, run: Callable[..., Result]) -> None:
    assert run("train", "--system", "fused", "--system", "audio").exit_code == 0
    trials = load_corpus().trials
    rows = [
        f"{trial.id}/{number + 1:05d}.jpg" for trial in reversed(trials) for number in range(trial.clock.num_frames + 1)
    ]
    sample = write(project / "sample.txt", *rows)

    def submit(*options: str) -> np.ndarray:
        result = run("submit", "abaw", "--sample", "sample.txt", *options, "--json")
        assert result.exit_code == 0, result.output
        assert "3 rows of the sample are after the last frame" in result.stderr
        assert "2 of the 3 trials are among those that networks were trained on or chosen by" in result.stderr
        (told,) = json.loads(result.stdout)
        assert (told["rows"], told["trials"], told["repeated"]) == (len(rows), 3, 3)
        lines = Path("results/abaw.txt").read_text().splitlines()[1:]
        assert [line.split(",")[0] for line in lines] == rows
        return np.array([line.split(",")[1:] for line in lines], np.float64)

    alone = [submit("--runs", f"{system}/fold0/seed{seed}") for system in ("fused", "audio") for seed in (0, 1)]
    assert not np.allclose(alone[0], alone[2])
    assert np.allclose(submit("--runs", "fused,audio"), np.mean(alone, axis=0), atol=2e-6)
    assert np.allclose(submit("--runs", "fused", "--runs", "fused/fold0/seed1"), np.mean(alone[:2], axis=0), atol=2e-6)
    best = submit("--runs", "audio", "--best-folds", "1")
    assert all(any(np.allclose(best[:, t], one[:, t], atol=2e-6) for one in alone[2:]) for t in range(2))
    assert run("submit", "abaw", "--sample", str(sample), "--check", "results/abaw.txt").exit_code == 0
    for options, said in (
        (("--runs", "fuse"), "'fused'"),
        (("--runs", "visual"), "'avfusion train'"),
        (("--runs", "fused/fold3"), "fused/fold0/seed0"),
        (("--runs", "fused", "--best-folds", "2"), "at most 1"),
        ((), "--runs"),
    ):
        result = run("submit", "abaw", "--sample", "sample.txt", *options)
        assert result.exit_code != 0
        assert said in result.stderr, (options, result.stderr)


def test_networks_count_by_their_validation_ccc(project: Path, run: Callable[..., Result]) -> None:
    from pipelines.ensembles.ensemble import Ensemble
    from pipelines.project.params_file import read_params
    from pipelines.submission.predictions import gather_ensemble, predict_corpus

    assert run("train", "--system", "audio").exit_code == 0
    manifest, params = load_corpus(), read_params()
    chosen = manifest.trials[0].id
    both = gather_ensemble(["audio"], params)

    def predict(ensemble: Ensemble, weighting: str) -> np.ndarray:
        return predict_corpus(ensemble, [chosen], manifest, params, "features", weighting)[chosen]

    first, second = (predict(Ensemble.of([member]), "mean") for member in both.members)
    both.members[0].network.validation.update(valence=0.3, arousal=-0.2)
    both.members[1].network.validation.update(valence=0.1, arousal=0.4)
    found = predict(both, "ccc")
    assert np.allclose(found[:, 0], 0.75 * first[:, 0] + 0.25 * second[:, 0], atol=1e-6)
    assert np.allclose(found[:, 1], second[:, 1], atol=1e-6)
    both.members[1].network.validation.update(arousal=-0.4)
    with pytest.raises(SettingError, match="arousal is 0 or less for each of 2 networks"):
        predict(both, "ccc")


def test_a_run_from_a_folder_reads_the_features_that_it_was_trained_on(
    project: Path, run: Callable[..., Result]
) -> None:
    sample = write(project / "sample.txt", *(f"{trial.id}/00001.jpg" for trial in load_corpus().trials))
    assert run("train", "--system", "audio").exit_code == 0
    texts = []
    shutil.copytree("work/models/audio/fold0/seed1", "elsewhere/mine")
    for name in ("audio/fold0/seed1", "elsewhere/mine"):
        assert run("submit", "abaw", "--sample", sample, "--runs", name).exit_code == 0
        texts.append(Path("results/abaw.txt").read_text())
    assert texts[0] == texts[1]
    Path("features/receipts/mobilefacenet.json").write_text("{", encoding="utf-8")  # which this run does not read
    assert run("submit", "abaw", "--sample", sample, "--runs", "elsewhere/mine").exit_code == 0
    receipt = Path("features/receipts/conv1d.json")
    receipt.rename(receipt.with_suffix(".away"))
    result = run("submit", "abaw", "--sample", sample, "--runs", "elsewhere/mine")
    assert result.exit_code == 1
    assert "No feature set in 'features' has the features 'audio' (conv1d)" in result.stderr


def test_a_file_without_one_of_the_two_is_not_written(tmp_path: Path, manifest: Manifest, predictions: dict) -> None:
    sample = abaw.read_sample(write(tmp_path / "sample.txt", "video59/00001.jpg"))
    predictions["video59"][:, 1] = np.nan
    with pytest.raises(SettingError, match="No network predicts arousal"):
        abaw.write(tmp_path / "out.txt", sample, predictions, manifest)
    assert not (tmp_path / "out.txt").exists()
