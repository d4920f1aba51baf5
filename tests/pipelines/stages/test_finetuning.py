"""Fine-tuning in a project: weights, their recipe, what they may be used for, and runs that are killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from cache.clock import FrameClock
from cache.corpus.folds import Fold, save_folds
from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import read_document, write_document
from cache.errors import LeakError, SettingError, WeightsError
from cache.recipe import Provenance, Seen
from cache.store.receipt import Receipt, open_receipt
from extract.backbones.contract import load_backbone
from fusion.bank.bank import Bank
from fusion.training.checkpoint import load
from fusion.training.inference import predict
from fusion.training.reading import list_readings
from pipelines.endtoend.state_file import StateFile
from pipelines.project.finetuned import claimed, refuse_leak
from pipelines.project.runs import WORDS, RunDocument
from pipelines.stages import finetuning as stage

Run = Callable[..., Result]
Edit = Callable[[Callable[[dict], None]], None]
FOLDER = Path("work/finetuned/emotion/fold0/weights")
FUSION = FOLDER.parent / "fusion"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def section(project: Path, edit_params: Edit) -> Callable[..., None]:
    """Give the project a fine-tuning of `conv1d`, or of what is named, and a feature set with its weights."""

    def write(modalities: dict[str, str] | None = None, **settings: object) -> None:
        def change(params: dict) -> None:
            train = {"epochs": 2, "batch_size": 2, "window": 6, "hop": 6, "schedule": "constant", "lr": 1e-3}
            params["finetune"] = {
                "emotion": {
                    "model": "rnn", "modalities": modalities or {"audio": "conv1d"}, "windows": 4, "train": train, **settings,
                }
            }  # fmt: skip
            params["extract"]["voice"] = {
                "backbone": "conv1d", "weights": "finetuned", "settings": params["extract"]["conv1d"]["settings"],
            }  # fmt: skip

        edit_params(change)

    return write


def finetune(run: Run, *arguments: str) -> Result:
    result = run("finetune", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return result


def tuned() -> bytes:
    return (FOLDER / "audio.safetensors").read_bytes()


def test_features_of_the_new_weights_stand_beside_the_old_ones(run: Run, section: Callable[..., None]) -> None:
    section()
    old = Path("features/receipts/conv1d.json").read_bytes()
    finetune(run)
    result = run("extract", "--backbone", "voice", "--backbone", "conv1d", "--json")
    assert [(row["features"], row["computed"]) for row in json.loads(result.stdout)] == [("voice", 3), ("conv1d", 0)]
    assert Path("features/receipts/conv1d.json").read_bytes() == old
    before = Receipt.load("features/receipts/conv1d.json").recipe
    after = Receipt.load("features/receipts/voice.json").recipe
    manifest = Manifest.load(Path("work/corpus"))
    for seen, part in ((after.provenance.trials, "train"), (after.provenance.selection, "validation")):
        trials = [trial for trial in manifest.trials if trial.partition == part]
        sources = [Receipt.load("features/receipts/conv1d.json").trials[trial.id].source for trial in trials]
        labels = [trial.labels_digest for trial in trials]
        assert seen == tuple(map(Seen, [trial.id for trial in trials], labels, sources))
        assert "" not in labels
    assert after.provenance.parents == (before.weights_sha256,)
    assert (after.settings, after.upstream) == (before.settings, before.upstream)
    assert after.weights_sha256 not in ("", before.weights_sha256)


def test_its_fusion_model_predicts_the_same_from_the_cache(run: Run, section: Callable[..., None]) -> None:
    """End to end is nothing else than the tuned backbone's features under the fusion model that it was trained with."""
    section(modalities={"audio": "conv1d", "visual": "mobilefacenet"}, trained=["audio"])
    rows = json.loads(finetune(run).stdout)
    assert run("extract", "--backbone", "voice").exit_code == 0
    checkpoint = load(FUSION)
    manifest = Manifest.load(Path("work/corpus"))
    stores = {
        modality: open_receipt(f"features/receipts/{name}.json")[0]
        for modality, name in (("audio", "voice"), ("visual", "mobilefacenet"))
    }
    validation = [trial for trial in manifest.trials if trial.partition == "validation"]
    bank = Bank.from_stores(stores, manifest, [trial.id for trial in validation])
    values = np.concatenate([prediction.values for prediction in predict(checkpoint.answering("train"), bank)])
    labels = np.concatenate([trial.labels for trial in validation])
    for column, target in enumerate(manifest.names):
        known = np.isfinite(labels[:, column])
        x, y = values[known, column].astype(float), labels[known, column].astype(float)
        ccc = 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert rows[0][f"ccc_{target}"] == pytest.approx(ccc, abs=2e-3)  # the store keeps float16
    assert checkpoint.reading in list_readings(checkpoint.training, max(bank.lengths.values()), fixed=False)
    smoothed = checkpoint.answering(postprocess=("median", "scale"))
    assert np.isfinite(np.concatenate([prediction.values for prediction in predict(smoothed, bank)])).all()


def test_its_epochs_are_in_the_plots_and_in_the_report(
    run: Run, section: Callable[..., None], edit_params: Edit
) -> None:
    assert run("finetune", "--if-any").exit_code == 0
    assert Path("results/finetuning.csv").read_text(encoding="utf-8").splitlines() == [
        "system,fold,seed,targets,epoch,stage,lr,loss,ccc"
    ]
    section()
    (kept,) = json.loads(finetune(run).stdout)
    rows = list(csv.DictReader(Path("results/finetuning.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["system"], row["epoch"]) for row in rows] == [("emotion", "0"), ("emotion", "1")]
    assert float(rows[kept["epoch"]]["ccc"]) == pytest.approx(kept["ccc"], abs=1e-4)
    assert run("extract", "--backbone", "voice").exit_code == 0
    systems = {
        "tuned": {"model": "rnn", "modalities": {"audio": "voice"}},
        "frozen": {"model": "rnn", "modalities": {"audio": "conv1d"}},
    }
    edit_params(lambda params: params["fusion"].update(systems=systems, seeds=[0], train={"epochs": 1}))
    for command in ("train", "evaluate", "report"):
        assert run(command).exit_code == 0
    report = Path("results/report.md").read_text(encoding="utf-8")
    (line,) = [line for line in report.splitlines() if line.startswith("| emotion")]
    assert [cell.strip() for cell in line.split("|")[1:6]] == [
        "emotion",
        "0",
        "conv1d",
        "rnn",
        f"{kept['epoch']} (0 to 1)",
    ]
    assert "conv1d ran with random weights; figures of frozen only show" in report
    assert Path("results/figures/finetuning.png").read_bytes().startswith(b"\x89PNG")


def test_twice_is_once(run: Run, section: Callable[..., None]) -> None:
    section()
    finetune(run)
    first, written = tuned(), (FOLDER / "audio.safetensors").stat().st_mtime_ns
    section(piece=1, fronts_gb=0.5)  # other memory
    result = finetune(run)
    assert "'emotion' of fold 0 is finished already" in result.stderr
    assert (FOLDER / "audio.safetensors").stat().st_mtime_ns == written
    section()
    finetune(run, "--redo")
    assert tuned() == first
    section(clip=0.01)
    said = "Fine-tuning 'emotion' of fold 0 is trained again, as these changed: the settings of fine-tuning.\n"
    assert said in finetune(run).stderr
    assert tuned() != first
    section()
    assert "is finished already" in finetune(run).stderr
    assert tuned() == first
    listed = json.loads(run("models", "ls", "--json").stdout)
    assert {(row["model"], row["runs"]) for row in listed} == {("audio", ""), ("audio", "finetuned/emotion/fold0")}
    assert len(json.loads(run("models", "prune", "--yes", "--json").stdout)) == 1
    assert "is finished already" in finetune(run).stderr


def test_why_it_is_trained_again_is_said_before(
    run: Run, section: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SettingError("It is about to be trained.")

    section()
    assert "trained again" not in finetune(run).stderr
    monkeypatch.setattr(stage, "digest_finetuning", lambda model: "other code")
    monkeypatch.setattr(stage, "_finetune_one", refuse)
    assert "again, as these changed: the code of avfusion that trains.\nError: It is about" in run("finetune").stderr
    document = read_document(FUSION / "run.json", RunDocument, "")
    assert document is not None
    assert document.parts.keys() == WORDS.keys()
    write_document(FUSION / "run.json", RunDocument, document.model_dump(exclude={"parts", "digest"}))  # an older one
    assert "again, as these changed: something that decides its weights.\nError" in run("finetune").stderr


def test_what_is_finished_waits_for_no_library_of_training() -> None:
    code = "import sys, pipelines.stages.finetuning; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_damaged_weights_are_trained_again(run: Run, section: Callable[..., None]) -> None:
    section()
    finetune(run)
    first = tuned()
    (FOLDER / "audio.safetensors").write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    result = run("extract", "--backbone", "voice")
    assert (result.exit_code, "audio.safetensors" in result.output) == (1, True)
    assert "was damaged; it is trained again" in finetune(run).stderr
    assert tuned() == first


def test_a_tracker_is_told_of_every_epoch(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    section()
    edit_params(lambda params: params["fusion"].update(tracker="tensorboard"))
    finetune(run)
    told = accumulator.EventAccumulator("work/tracking/tensorboard/finetune/emotion/fold0")
    told.Reload()
    rows = list(csv.DictReader(Path("results/finetuning.csv").read_text(encoding="utf-8").splitlines()))
    for name in ("ccc", "loss", "ccc_valence"):
        expected = [(int(row["epoch"]), pytest.approx(float(row[name]), abs=1e-4)) for row in rows]
        assert [(event.step, event.value) for event in told.Scalars(name)] == expected


@pytest.mark.parametrize("how", [{}, {"release": "two-stage", "frozen_epochs": 2, "sound": {}}])  # with a frozen front
def test_killed_at_any_epoch_it_ends_with_the_same_weights(
    run: Run, section: Callable[..., None], edit_params: Edit, how: dict[str, object]
) -> None:
    section(**{"sound": {"noise": 0.1}, **how})
    edit_params(lambda params: params["finetune"]["emotion"]["train"].update(epochs=3))
    finetune(run)
    undisturbed = tuned()
    shutil.rmtree("work/finetuned")
    shutil.rmtree("work/finetunings")
    states = Path("work/finetunings")
    for _ in range(2):
        command = [sys.executable, "-m", "pipelines", "finetune"]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        before = {path: path.stat().st_mtime_ns for path in states.rglob("*.pt")}
        while process.poll() is None and {p: p.stat().st_mtime_ns for p in states.rglob("*.pt")} == before:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finetune(run)
    assert tuned() == undisturbed
    assert not list(states.rglob("*.pt"))


def test_training_again_goes_on_where_it_was_interrupted(
    run: Run, section: Callable[..., None], edit_params: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    section()
    finetune(run)
    finished = tuned()
    kept = StateFile.save

    def save(self: StateFile, state: dict) -> None:
        kept(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(StateFile, "save", save)
        assert run("finetune", "--redo").exit_code == 130
    assert tuned() == finished
    assert "emotion fold 0: goes on after 1 of them, trained before." in finetune(run, "--redo").stderr
    assert tuned() == finished


def test_what_params_no_longer_names_can_be_pruned(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    section()
    finetune(run)
    shutil.copytree("work/finetuned/emotion/fold0", "work/finetuned/emotion/fold0.bak")
    edit_params(lambda params: params["fusion"].update(folds={"number": -1}))
    assert run("extract", "--backbone", "voice").exit_code == 0
    edit_params(lambda params: params["finetune"].update(other=params["finetune"].pop("emotion")))
    finetune(run)
    assert not Path("work/finetuned/emotion").exists()
    assert json.loads(run("models", "prune", "--json").stdout) == []  # `other` is made of just the same


def test_the_better_of_two_stages_is_kept(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    section(release="two-stage", frozen_epochs=2, released_lr=100.0)
    edit_params(lambda params: params["finetune"]["emotion"]["train"].update(epochs=3))
    result = finetune(run)
    (row,) = json.loads(result.stdout)
    assert (row["epoch"] < 2, row["stage"]) == (True, 0)
    assert "before its backbones were released" in result.stderr
    kept = load(FUSION).validation
    assert row["ccc"] == pytest.approx(np.mean(list(kept.values())), abs=1e-4)


def test_frozen_fronts_are_shared_by_runs_until_they_are_pruned(run: Run, section: Callable[..., None]) -> None:
    said = "computing the frozen front of 'conv1d', once for all epochs"
    section(release="two-stage", frozen_epochs=1, fronts_gb=0)
    finetune(run)
    plain = load_file(FOLDER / "audio.safetensors")
    assert not Path("work/fronts").exists()
    section(release="two-stage", frozen_epochs=1)
    assert finetune(run, "--redo").stderr.count(said) == 1
    for name, tensor in load_file(FOLDER / "audio.safetensors").items():
        assert torch.allclose(tensor, plain[name], rtol=0, atol=1e-6), name
    section(release="two-stage", frozen_epochs=1, released_lr=1e-3)
    assert said not in finetune(run).stderr
    with claimed("a running one"):
        run("models", "prune", "--yes")
        assert Path("work/fronts").exists()
    assert "outputs of frozen fronts" in run("models", "prune", "--yes").stderr
    assert not Path("work/fronts").exists()


def test_a_log_has_a_line_for_every_epoch(run: Run, section: Callable[..., None]) -> None:
    section()
    lines = [line for line in finetune(run).stderr.splitlines() if line.startswith("emotion fold 0: ")]
    assert lines.pop(0) == "emotion fold 0: begins, 2 epochs at most."
    assert [line.split(",")[0] for line in lines] == [f"emotion fold 0: epoch {epoch} (of 2)" for epoch in range(2)]


def test_two_at_once_train_once(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    section()
    edit_params(lambda params: params["finetune"]["emotion"]["train"].update(epochs=4))
    command = [sys.executable, "-m", "pipelines", "finetune"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("is finished already" in text for text in told) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda params: params["finetune"].update({"../evil": params["finetune"].pop("emotion")}), "'../evil'"),
        (lambda params: params["finetune"]["emotion"].update(modalities={"audio": "voice"}), "'voice'"),
        (lambda params: params["finetune"]["emotion"].update(modalities={"audio": "nosuch"}), "'nosuch'"),
        (lambda params: params["finetune"]["emotion"].update(modalities={"au dio": "conv1d"}), "au dio"),
        (lambda params: params["finetune"]["emotion"].update(release="two-stage"), "frozen_epochs"),
        (lambda params: params["extract"]["voice"].update(weights="finetuned:emotoin"), "'emotion'"),
        (lambda params: params["finetune"]["emotion"].update(model="rnnn"), "'rnn'"),
        (lambda params: params["finetune"]["emotion"].pop("model"), "model"),
        (lambda params: params["finetune"].update(sets=params["finetune"].pop("emotion")), "finetune.sets"),
        (lambda params: params["finetune"]["emotion"].update(model="linear"), "closed form"),
        (lambda params: params["finetune"]["emotion"].update(release="gradual"), "expected plateau"),
        (lambda params: params["finetune"]["emotion"].update(trained=["audio", "audio"]), "2 times"),
    ],
    ids=[
        "name",
        "own output",
        "set",
        "modality",
        "epochs",
        "run",
        "model",
        "no model",
        "own folder",
        "solved",
        "schedule",
        "twice",
    ],
)
def test_faults_are_found_when_params_yaml_is_read(
    run: Run, section: Callable[..., None], edit_params: Edit, change: Callable[[dict], None], named: str
) -> None:
    section()
    edit_params(change)
    result = run("plan")
    assert (result.exit_code, named in result.output) == (1, True), result.output
    assert not isinstance(result.exception, (TypeError, AttributeError))


def test_faulty_names_are_found_beside_other_faults(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    section(piece=-1)
    edit_params(lambda params: params["finetune"].update({"../evil": params["finetune"]["emotion"]}))
    result = run("plan")
    assert "finetune.../evil" in result.output
    assert "finetune.emotion.piece" in result.output


def test_a_damaged_state_is_not_gone_on_from(tmp_path: Path) -> None:
    keeper = StateFile(tmp_path / "0.pt", None, None)  # type: ignore[arg-type]
    keeper.save({"history": [], "weights": torch.ones(1000)})
    content = bytearray((tmp_path / "0.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "0.pt").write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged: it starts again"):
        assert keeper.load() is None


def test_weights_without_their_document_are_refused(run: Run, section: Callable[..., None]) -> None:
    section()
    finetune(run)
    (FOLDER / "audio.lineage.json").unlink()
    with pytest.raises(WeightsError, match="audio.lineage.json"):
        load_backbone("conv1d", str(FOLDER / "audio.safetensors"), {"window_s": 0.1})


def test_weights_of_other_settings_are_refused(run: Run, section: Callable[..., None]) -> None:
    section()
    finetune(run)
    with pytest.raises(WeightsError, match=r"window_s: 0.1, not 0.5"):
        load_backbone("conv1d", str(FOLDER / "audio.safetensors"))


def test_figures_on_trials_that_weights_have_seen_are_refused(
    run: Run, section: Callable[..., None], edit_params: Edit
) -> None:
    section()
    finetune(run)
    assert run("extract", "--backbone", "voice").exit_code == 0
    edit_params(
        lambda params: params["fusion"].update(systems={"s": {"model": "rnn", "modalities": {"audio": "voice"}}})
    )
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    learned = Receipt.load("features/receipts/voice.json").recipe.provenance
    ((teaching, *_),), ((choosing, *_),) = learned.trials, learned.selection
    manifest = Manifest.load(Path("work/corpus"))
    other = next(trial.id for trial in manifest.trials if trial.id not in (teaching, choosing))
    folds = [Fold(0, (other,), (choosing,), (teaching,)), Fold(0, (other,), (teaching,), (choosing,)),
             Fold(0, (teaching,), (other,), (choosing,))]  # fmt: skip
    for fold in folds:
        with pytest.raises(LeakError, match=r"has seen 1 .* trial of fold 0 \(first: "):
            refuse_leak(learned, fold, manifest, lambda each: "", "features 'voice'")
    save_folds(folds[:1], Path("folds.json"), manifest)
    edit_params(lambda params: params["fusion"].update(folds={"path": "folds.json"}))
    result = run("train")
    assert (result.exit_code, f"'{teaching}'" in result.output and "'voice'" in result.output) == (1, True)


LABELS = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)


@pytest.mark.parametrize(
    ("trial_id", "labels", "media", "leaks"),
    [
        ("other", LABELS, "other", True),  # the same video under another id
        ("other", -LABELS, "sound", False),  # another person in the same recording
        ("same", LABELS, "other", True),  # cropped again
        ("same", -LABELS, "sound", True),  # labelled again
        ("same", -LABELS, "", True),  # nobody knows
        ("same", -LABELS, "other", False),  # another corpus that counts its trials in the same way
        ("same", LABELS * 0, "other", True),  # labels that say nothing
        ("same", None, "other", True),
        ("other", LABELS * 0, "sound", False),
    ],
)
def test_trials_are_known_by_their_content(trial_id: str, labels: np.ndarray | None, media: str, leaks: bool) -> None:
    clock = FrameClock(Fraction(5), 5)
    learned = Trial("same", "p", "", clock, {}, LABELS)
    others = [Trial(name, name, "", clock, {}, LABELS / 2) for name in ("third", "fourth")]
    manifest = Manifest(Path(), (Trial(trial_id, "p", "", clock, {}, labels), *others))
    known = Provenance(trials=(Seen("same", learned.labels_digest, "sound"),))
    for fold in (Fold(0, ("third",), ("fourth",), (trial_id,)), Fold(0, ("third",), (trial_id,), ())):
        with pytest.raises(LeakError, match=f"'{trial_id}'") if leaks else nullcontext():
            refuse_leak(known, fold, manifest, lambda each: media, "weights")


def test_every_fold_has_weights_and_features_of_its_own(
    run: Run, section: Callable[..., None], edit_params: Edit
) -> None:
    """Two folds, each tuned on its own training trials; its systems read the features of its own weights."""
    section()
    manifest = Manifest.load(Path("work/corpus"))
    one, other = [trial.id for trial in manifest.trials if trial.partition in ("train", "validation")]
    save_folds([Fold(0, (one,), (other,), ()), Fold(1, (other,), (one,), ())], Path("folds.json"), manifest)
    edit_params(lambda params: params["fusion"].update(folds={"path": "folds.json", "number": -1}, seeds=[0]))
    edit_params(
        lambda params: params["fusion"].update(systems={"s": {"model": "rnn", "modalities": {"audio": "voice"}}})
    )
    edit_params(lambda params: params["fusion"]["train"].update(epochs=1))
    finetune(run)
    result = run("extract", "--backbone", "voice", "--backbone", "conv1d", "--json")
    rows = [(row["features"], row["computed"], row["kept"]) for row in json.loads(result.stdout)]
    assert rows == [("voice", 3, 0), ("conv1d", 0, 3), ("voice", 3, 0)]
    receipt = Receipt.load("features/receipts/voice.json")
    assert len({each.recipe.fingerprint for each in receipt.every()}) == 2
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    for fold in range(2):
        network = load(f"work/models/s/fold{fold}/seed0")
        provenance = network.recipes["audio"].provenance
        assert provenance == receipt.of_fold(fold).recipe.provenance
        parts = network.fold.train, network.fold.validate
        seen = provenance.trials, provenance.selection
        assert tuple(tuple(each.id for each in part) for part in seen) == parts
    assert run("cache", "verify", "--against-source", "1").exit_code == 0
    written = Path("features/receipts/voice.json").read_bytes()
    assert run("extract", "--backbone", "voice").exit_code == 0
    assert Path("features/receipts/voice.json").read_bytes() == written
    edit_params(lambda params: params["fusion"]["folds"].update(number=1))
    assert "is finished already" in finetune(run).stderr
    assert [path.name for path in Path("work/finetuned/emotion").iterdir()] == ["fold1"]
    edit_params(lambda params: params["fusion"]["folds"].update(number=-1))
    assert finetune(run).stderr.count("is finished already") == 2  # what another division named was kept
    edit_params(lambda params: params["fusion"]["folds"].update(number=1))
    finetune(run)
    assert run("extract", "--backbone", "voice").exit_code == 0
    assert run("train").exit_code == 0
    assert [network["model"] for network in json.loads(run("models", "ls", "--json").stdout)] == [
        "rnn",
        "rnn",
        "audio",
        "audio",
    ]


def test_what_no_fine_tuning_makes_is_reported(run: Run, section: Callable[..., None], edit_params: Edit) -> None:
    section()
    result = run("extract", "--backbone", "voice")
    assert (result.exit_code, "finetune --run emotion" in result.output) == (1, True)
    edit_params(lambda params: params.pop("finetune"))
    result = run("extract", "--backbone", "voice")
    assert (result.exit_code, "conv1d" in result.output and "finetune" in result.output) == (1, True)
