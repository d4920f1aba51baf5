"""`params.yaml` is checked when it is read, with every section that a name decides the type of."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from cache.corpus.manifest import Manifest
from cache.errors import SettingError, UnknownNameError
from cache.names import config_of
from extract.corpora import CORPORA
from extract.faces.settings import CropConfig
from fusion.settings import TrainConfig
from pipelines.cli.reference import rows
from pipelines.project.corpus_files import look, save_files
from pipelines.project.params import FusionParams, Params
from pipelines.project.params_file import read_params, read_typed

Run = Callable[..., Result]
RIGHT = "corpus: {}\nfusion: {seeds: [0], systems: {a: {model: rnn, modalities: {audio: conv1d}}}}\n"

NAMED = (
    "corpus: {{}}\nfusion: {{seeds: [0], systems: {{a: {{model: leader_follower, modalities: {{face: x, voice: y}}, "
    "settings: {{{}}}}}, b: {{model: rnn, modalities: {{pose: z}}}}}}}}\n"
)
TRAINED = NAMED.replace("settings: {{{}}}", "settings: {{}}").replace("seeds: [0]", "seeds: [0], train: {{{}}}")
CROSSED = NAMED.format("n_cross_of: {face_to_visage: 2}").replace("leader_follower", "cross_modal_attention")


def faults_of(folder: Path, text: str, matrix: str = "") -> dict[str, str]:
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    if matrix:
        (folder / "matrix.yaml").write_text(matrix, encoding="utf-8")
    with pytest.raises(SettingError) as caught:
        read_params(folder / "params.yaml")
    assert str(folder / "params.yaml") in str(caught.value)
    assert "see 'avfusion params'" in str(caught.value)
    return caught.value.faults


def test_every_fault_of_both_files_is_in_one_message(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        """
corpus: {name: folder, settings: {seed: 7, fase: left}}
crops: {sise: 3, quality: 101, faces: {every: a}}
extract:
  conv1d: {weights: random, dtype: float17, settings: {window: 3}}
  facenett: {weights: random}
  a b: {backbone: bert, weights: minilm}
  mine: {backbone: facenett, weights: random}
  bert: {weight: random, settings: {max_tokens: 1.5}}
fusion:
  seeds: [0, 0]
  systems:
    a: {model: rnnn, modalities: {audio: conv1d}, train: {hop: 20}}
    b: {model: rnn, modalities: {}, settings: {d_modell: 32, d_hidden: 0}, train: {lr: fast, seed: 3}}
    c/d: {model: late, modalities: {audio: conv1d}, settings: {d_model: 3}}
  train: {epochs: 0, losss: batch}
evaluate: {partition: tset}
evalute: 3
""",
        "{seeds: [0], workers: 0, systems: {q: {model: tcn, modalities: {audio: x}, settings: {kernel: yes}}}}",
    )
    expected = {
        "corpus.settings.seed": ["7", "unknown", "'demo'", "remove it"],
        "corpus.settings.fase": ["'left'", "unknown", "'face'"],
        "crops.sise": ["3", "unknown", "'size'"],
        "crops.quality": ["101", "1 to 100"],
        "crops.faces.every": ["'a'", "whole number"],
        "extract.conv1d.dtype": ["'float17'", "float16, float32"],
        "extract.conv1d.settings.window": ["3", "'window_s'"],
        "extract.facenett": ["backbone", "'facenet'"],
        "extract.a b": ["cannot name a folder"],
        "extract.mine.backbone": ["'facenett'", "'facenet'"],
        "extract.bert.weight": ["'random'", "'weights'"],
        "extract.bert.weights": ["missing"],
        "extract.bert.settings.max_tokens": ["1.5", "whole number"],
        "fusion.seeds": ["[0, 0]", "once"],
        "fusion.systems.a.model": ["'rnnn'", "'rnn'"],
        "fusion.systems.a.train": ["20", "16"],
        "fusion.systems.b.modalities": ["{}", "at least one"],
        "fusion.systems.b.settings.d_modell": ["32", "'d_model'"],
        "fusion.systems.b.settings.d_hidden": ["0", "1 to 65536"],
        "fusion.systems.b.train.lr": ["'fast'", "a number"],
        "fusion.systems.b.train.seed": ["3", "fusion.seeds"],
        "fusion.systems.c/d": ["cannot name a folder"],
        "fusion.systems.c/d.settings.d_model": ["3", "'rnn'", "remove it"],
        "fusion.train.epochs": ["0", "1 to"],
        "fusion.train.losss": ["'batch'", "'loss'"],
        "evaluate.partition": ["'tset'", "'test'"],
        "evalute": ["3", "'evaluate'"],
        "matrix.workers": ["0", "1 to"],
        "matrix.systems.q.settings.kernel": ["True", "whole number"],
    }
    assert faults.keys() == expected.keys()
    for key, words in expected.items():
        assert all(word in faults[key] for word in words), (key, faults[key])


def test_folds_seeds_and_evaluation_have_ranges(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        "corpus: {}\nevaluate: {level: 2, draws: -3, seed: -1}\n"
        "fusion:\n  folds: {kind: groupd, number: -7, count: -2, seed: -1}\n  seeds: [-1]\n"
        "  systems: {x/y: {model: rnn, modalities: {audio: conv1d}}}\n",
    )
    expected = {
        "evaluate.level": ["2", "more than 0 and less than 1"],
        "evaluate.draws": ["-3", "1 to"],
        "evaluate.seed": ["-1", "0 to"],
        "fusion.folds.kind": ["'groupd'", "Did you mean 'grouped'?"],
        "fusion.folds.number": ["-7", "-1 to"],
        "fusion.folds.count": ["-2", "0 or at least 2"],
        "fusion.folds.seed": ["-1", "0 to"],
        "fusion.seeds": ["[-1]", "0 to 2^63 - 1"],
        "fusion.systems.x/y": ["'x/y' cannot name a folder", "letters"],
    }
    assert faults.keys() == expected.keys()
    for key, words in expected.items():
        assert all(word in faults[key] for word in words), (key, faults[key])


@pytest.mark.parametrize("other", ["", "seeds: all, ", "seeds: [0], threads: many, ", "seeds: [-1, 3.5], "])
def test_names_of_systems_are_checked_beside_other_faults(tmp_path: Path, other: str) -> None:
    systems = "{x/y: {model: rnn, modalities: {audio: conv1d}}, z: {model: 3}}"
    faults = faults_of(
        tmp_path, f"corpus: {{}}\nfusion: {{{other}systems: {systems}}}\nmatrix: {{systems: {systems}}}\n"
    )
    assert {"fusion.systems.x/y", "matrix.systems.x/y", "fusion.systems.z.model"} < faults.keys()
    assert ("-1" in other) == ("expected each seed once" in faults.get("fusion.seeds", ""))


@pytest.mark.parametrize(
    "text",
    [
        "number: -1, count: 0",
        "number: 5, count: 2, kind: stratified, seed: 4294967295",
    ],
)
def test_ranges_of_folds_are_closed(tmp_path: Path, text: str) -> None:
    right = RIGHT.replace("seeds: [0]", f"seeds: [0, {2**63 - 1}], folds: {{{text}}}")
    (tmp_path / "params.yaml").write_text(right + "evaluate: {level: 0.5, draws: 1}", encoding="utf-8")
    assert read_params(tmp_path / "params.yaml").evaluate.draws == 1


def test_systems_share_settings_of_modalities_that_not_all_have(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(NAMED.format("leader: face, channels_of: {pose: [8]}"), encoding="utf-8")
    assert read_params(tmp_path / "params.yaml").fusion.systems["a"].settings.leader == "face"


def test_sections_are_typed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        """
corpus: {settings: {num_trials: 4, min_s: 2}}
crops: {size: 96}
extract: {conv1d: {weights: random, settings: {window_s: 1}}, words: {backbone: bert, weights: random}}
fusion:
  seeds: [0]
  train: {lr: 1e-3, window: 32}
  systems:
    a: {model: rnn, modalities: {audio: conv1d}}
    b: {model: linear, modalities: {audio: conv1d}, settings: {spans: [1, 3]}, train: {window: 64, hop: 64}}
""",
        encoding="utf-8",
    )
    params = read_params(tmp_path / "params.yaml")
    assert params.corpus.settings == config_of(CORPORA["demo"])(num_trials=4, min_s=2.0)
    assert params.crops == CropConfig(size=96)
    assert {name: found.backbone for name, found in params.extract.items()} == {"conv1d": "conv1d", "words": "bert"}
    assert list(params.feature_sets(["words", "all"])) == ["words", "conv1d"]
    with pytest.raises(UnknownNameError, match="'wrods'.*Did you mean 'words'"):
        params.feature_sets(["wrods"])
    assert (params.extract["conv1d"].settings.window_s, params.extract["words"].settings.max_tokens) == (1.0, 256)
    assert params.fusion.train == params.fusion.systems["a"].train == TrainConfig(lr=1e-3, window=32)
    assert params.fusion.systems["b"].train == TrainConfig(lr=1e-3, window=64, hop=64)
    assert params.fusion.systems["b"].settings.spans == (1, 3)
    assert params.matrix is None


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("7", "", ["7", "section"]),
        ("corpus: {}\nfusion: 3", "fusion", ["3", "seeds, systems"]),
        (RIGHT.replace("a:", "1:"), "fusion.systems.1", ["quotes"]),
        (RIGHT.replace("rnn", "rnn, pca: 7"), "fusion.systems.a.pca", ["7", "whole number"]),
        (RIGHT.replace("model: rnn", "model: [rnn]"), "fusion.systems.a.model", ["['rnn']", "text"]),
        (RIGHT + "extract: {a/b: {weights: random, backbone: bert}}", "extract.a/b", ["a/b", "letters"]),
        (RIGHT + "extract: {..: {weights: random, backbone: bert}}", "extract...", ["'..'", "letters"]),
        (
            RIGHT + f"extract: {{{'é' * 101}: {{weights: random, backbone: bert}}}}",
            f"extract.{'é' * 101}",
            ["200 bytes"],
        ),
        (RIGHT + "extract: {all: {weights: random, backbone: bert}}", "extract.all", ["stands for all"]),
        (RIGHT + "extract: []", "extract", ["[]", "section"]),
        (RIGHT.replace("corpus: {}", "corpus: {name: dmeo}"), "corpus.name", ["'dmeo'", "'demo'"]),
        (RIGHT.replace("corpus: {}", "corpus: {settings: }"), "corpus.settings", ["None", "seed"]),
        (RIGHT.replace("corpus: {}", "corpus: {settings: {seed: 2020-01-02}}"), "corpus.settings.seed", ["2020, 1, 2"]),
        (RIGHT + "matrix: {systems: {}}", "matrix.seeds", ["missing"]),
        (RIGHT.replace("audio:", "my-audio:"), "fusion.systems.a.modalities.my-audio", ["word", "'_'"]),
        (RIGHT.replace("rnn", "rnn, pca: {adio: 7}"), "fusion.systems.a.pca.adio", ["no modality", "'audio'"]),
        (NAMED.format("leader: voise"), "fusion.systems.a.settings.leader", ["'voise'", "'voice'", "face, voice"]),
        (NAMED.format("leader: pose"), "fusion.systems.a.settings.leader", ["'pose'", "face, voice"]),
        (NAMED.format("channels_of: {fase: [8]}"), "fusion.systems.a.settings.channels_of.fase", ["'face'"]),
        (NAMED.format("channels_of: {face: [0]}"), "fusion.systems.a.settings.channels_of.face", ["[0]", "1 to 65536"]),
        (CROSSED, "fusion.systems.a.settings.n_cross_of.face_to_visage", ["face_to_voice"]),
        (TRAINED.format("drop_unseen: [face, fase]"), "fusion.train.drop_unseen", ["'fase'", "'face'", "pose"]),
        (TRAINED.format("normalise_of: {pase: none}"), "fusion.train.normalise_of", ["'pase'", "'pose'"]),
    ],
)
def test_single_faults(tmp_path: Path, text: str, key: str, words: list[str]) -> None:
    faults = faults_of(tmp_path, text)
    assert faults.keys() == {key}
    assert all(word in faults[key] for word in words), faults


def test_a_fault_that_systems_inherit_is_reported_once(tmp_path: Path) -> None:
    two = RIGHT.replace("systems: {a:", "systems: {b: {model: rnn, modalities: {audio: conv1d}}, a:")
    faults = faults_of(tmp_path, two.replace("seeds: [0]", "seeds: [0], train: {seed: 3}"))
    assert faults.keys() == {"fusion.train.seed"}
    shared = "model: rnn, settings: {d_hiden: 3}"
    faults = faults_of(tmp_path, two.replace("model: rnn", shared))
    assert faults.keys() == {"fusion.systems.a.settings.d_hiden", "fusion.systems.b.settings.d_hiden"}
    assert all("Did you mean 'd_hidden'?" in text for text in faults.values())


@pytest.mark.parametrize("text", ["corpus: [1", "corpus: 2020-13-45", "\xff\xfe: {"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingError, match=r"params\.yaml' is not YAML"):
        read_params(tmp_path / "params.yaml")


def test_the_matrix_stands_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text("{seeds: [0], systems: {}}", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(RIGHT + "matrix: {seeds: [0], systems: {}}", encoding="utf-8")
    with pytest.raises(SettingError, match=r"matrix\.yaml'; expected one of them"):
        read_params(tmp_path / "params.yaml")


def test_right_files_import_nothing_for_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "extract.corpora.affwild2", None)
    (tmp_path / "params.yaml").write_text(RIGHT, encoding="utf-8")
    assert read_params(tmp_path / "params.yaml").fusion.seeds == [0]


@pytest.mark.parametrize("command", [("plan",), ("corpus", "build"), ("corpus", "check", "mine"), ("train",)])
def test_the_first_command_says_so(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "videos").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(
        "corpus: {name: folder, root: mine, settings: {seed: 7}}\n"
        "fusion: {seeds: [0], systems: {a: {model: rnn, modalities: {audio: conv1d}, settings: {d_modell: 3}}}}\n",
        encoding="utf-8",
    )
    result = run(*command)
    assert result.exit_code == 1
    assert "It is a setting of 'demo': remove it." in result.stderr
    assert "'fusion.systems.a.settings.d_modell' is 3" in result.stderr


def test_defaults_are_listed() -> None:
    assert {name: default for name, default, _ in rows(FusionParams)}["threads"] == "1"


@pytest.mark.parametrize("other", ["", "evaluate: {level: 2}\n", "fusion: {seeds: []}\n", "evalute: 3\n"])
def test_faults_between_sections_stand_beside_other_faults(tmp_path: Path, other: str) -> None:
    fusion = "" if "fusion" in other else "fusion: {seeds: [0], systems: {a: {model: rnn, modalities: {v: x}}}}\n"
    faults = faults_of(
        tmp_path,
        f"corpus: {{}}\n{other}{fusion}extract: {{a: {{backbone: mobilefacenet, weights: 'finetuned:fase'}}, "
        "b: {backbone: conv1d, weights: 'finetuned:'}}\n"
        "finetune:\n  face: {model: rnn, modalities: {v: bb}, release: two-stage, frozen_epochs: 5, train: {epochs: 3, lr: 0}}\n"
        "  lin: {model: linear, modalities: {v: a}}\n",
    )
    expected = {
        "extract.a.weights": ["'finetuned:fase'", "face"],
        "extract.b.weights": ["'finetuned:'", "face"],
        "finetune.face.frozen_epochs": ["5", "3"],
        "finetune.face.modalities.v": ["'bb'", "'extract' lacks"],
        "finetune.face.train.lr": ["0"],
        "finetune.lin.model": ["'linear'", "gradient"],
        "finetune.lin.modalities.v": ["'a'", "earlier"],
    }
    assert expected.keys() <= faults.keys()
    assert bool(other) == bool(faults.keys() - expected.keys())
    for key, words in expected.items():
        assert all(word in faults[key] for word in words), (key, faults[key])


def test_settings_of_backbones_are_checked_when_they_are_read(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        "corpus: {}\nfusion: {seeds: [0], systems: {}}\nextract:\n  mobilefacenet: {weights: random, settings: {missing: blck, variant: x}}\n"
        "  facenet: {weights: random, settings: {standardise: x}}\n  resnet50: {weights: random, settings: {variant: x}}\n"
        "  vggish: {weights: random, settings: {start: x}}\n  bert: {weights: random, settings: {max_tokens: -1, pause_s: -3}}\n",
    )
    assert faults.keys() == {
        "extract.mobilefacenet.settings.missing",
        "extract.mobilefacenet.settings.variant",
        "extract.facenet.settings.standardise",
        "extract.resnet50.settings.variant",
        "extract.vggish.settings.start",
        "extract.bert.settings.max_tokens",
        "extract.bert.settings.pause_s",
    }


def test_what_would_fail_or_be_ignored_after_hours_is_reported_first(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        "corpus: {}\nevaluate: {best_folds: 2}\nfusion: {seeds: [0], systems: {}}\n"
        "extract: {a: {backbone: mobilefacenet, weights: random}, v: {backbone: conv1d, weights: random}, "
        "b: {backbone: mobilefacenet, weights: 'finetuned:face', settings: {missing: black}}}\n"
        "finetune:\n  face: {model: rnn, modalities: {v: a}, sound: {noise: 0.1}, train: {per_target: true}}\n"
        "  voice: {model: rnn, modalities: {v: v}, images: {flip: 0.5}}\n  both: {model: rnn, modalities: {v: v, a: a}, images: {flip: 0.5}}\n",
    )
    assert faults.keys() == {
        "evaluate.best_folds",
        "extract.b.settings.missing",
        "finetune.face.sound",
        "finetune.face.train.per_target",
        "finetune.voice.images",
    }


def test_a_wrong_model_hides_no_fault_of_weights(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        "corpus: {}\nfusion: {seeds: [0], systems: {}}\nextract: {a: {backbone: conv1d, weights: 'finetuned:zzz'}}\n"
        "finetune: {face: {model: foo, modalities: {v: a}}}\n",
    )
    assert {"finetune.face.model", "extract.a.weights"} <= faults.keys()


TARGETS = """
corpus: {name: folder, root: ROOT}
extract: {conv1d: {weights: random}}
fusion:
  seeds: [0]
  train: {targets: [valence, arusal]}
  systems: {a: {model: rnn, modalities: {audio: conv1d}}, b: {model: rnn, modalities: {audio: conv1d}, train: {targets: [joy]}}}
matrix: {seeds: [0], systems: {c: {model: rnn, modalities: {audio: conv1d}, train: {targets: [valence]}}}}
finetune: {d: {model: rnn, modalities: {audio: conv1d}, train: {targets: [pain], hop: 0}}}
"""


def test_targets_that_the_corpus_lacks_are_reported_with_all_other_faults(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "a.csv").touch()
    text = TARGETS.replace("ROOT", str(root))
    known = {"finetune.d.train.hop"}
    assert faults_of(tmp_path, text).keys() == known, "nothing is known of the corpus yet"
    corpus = read_typed(Params, yaml.safe_load(text.replace(", hop: 0", "")), "").corpus
    Manifest(root, ()).save(tmp_path / "work/corpus")
    save_files(corpus, look(corpus), tmp_path / "work/corpus/files.json")
    faults = faults_of(tmp_path, text)
    lacking = {
        "fusion.train.targets": "arusal",
        "fusion.systems.b.train.targets": "joy",
        "finetune.d.train.targets": "pain",
    }
    assert faults.keys() == known | lacking.keys()
    for key, name in lacking.items():
        assert f"'{name}'" in faults[key]
        assert "valence, arousal" in faults[key]
    assert "Did you mean 'arousal'" in faults["fusion.train.targets"]
    others = faults_of(tmp_path, text.replace("mine}", "mine, settings: {targets: {joy: [0, 1]}}}"))
    assert others.keys() == known, "the corpus will be built again with other targets"
    (root / "b.csv").touch()
    assert faults_of(tmp_path, text).keys() == known, "the corpus has changed and must be built again"


@pytest.mark.parametrize("command", ["train", "finetune", "matrix"])
def test_targets_are_checked_before_any_work(
    project: Path, run: Run, edit_params: Callable[[Callable[[dict], None]], None], command: str
) -> None:
    """Also where no one knows with which settings the corpus was built."""
    (project / "work/corpus/files.json").unlink()
    shutil.rmtree(project / "features")

    def change(params: dict) -> None:
        params["finetune"] = {
            "mine": {"model": "rnn", "modalities": {"audio": "conv1d"}, "train": {"targets": ["joy"]}}
        }
        for section in ("fusion", "matrix"):
            params[section]["train"] = {"targets": ["joy"]}

    edit_params(change)
    result = run(command)
    assert (result.exit_code, "'joy'" in result.output, "[valence, arousal]" in result.output) == (1, True, True)
    assert ".train.targets'" in result.output
