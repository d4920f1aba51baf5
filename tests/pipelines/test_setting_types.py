"""Settings that another corpus left behind: named, by whichever command reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.errors import SettingError
from cache.names import config_of, load_named
from extract.corpora import CORPORA
from extract.crops import CropConfig
from pipelines import setting_types
from pipelines.params import from_mapping

Run = Callable[..., Result]


def refused(corpus: str, settings: dict[str, object]) -> str:
    with pytest.raises(SettingError) as caught:
        from_mapping(config_of(load_named("corpus", CORPORA, corpus)), settings, f"corpus.settings of '{corpus}'")
    return str(caught.value)


def test_a_setting_of_another_corpus_is_named_as_such() -> None:
    assert refused("folder", {"seed": 7}) == (
        "Unknown setting 'seed' in 'corpus.settings of 'folder''; expected some of targets, face, rate. 'seed' is a setting of "
        "corpus 'demo': remove it."
    )
    assert refused("muse", {"rate": "25"}).endswith(
        ". 'rate' is a setting of corpus 'affwild2' and 'folder': remove it."
    )


def test_settings_of_another_corpus_beside_misspelt_ones() -> None:
    assert refused("folder", {"colour": 1, "seed": 7, "fase": "left", "num_trials": 3}).endswith(
        " targets, face, rate. 'seed' is a setting of corpus 'demo': remove it. 'num_trials' is a setting of corpus 'demo': "
        "remove it. Did you mean 'face'?"
    )
    assert refused("demo", {"sed": 7}).endswith(" height. Did you mean 'seed'?")


def test_other_corpora_are_looked_at_for_settings_of_a_corpus_that_are_wrong_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(load_named("corpus", CORPORA, "folder"))

    def load(*arguments: object) -> None:
        raise AssertionError(f"{arguments} was imported")

    monkeypatch.setattr(setting_types, "load_named", load)
    from_mapping(config, {"face": "left"}, "corpus.settings of 'folder'")
    with pytest.raises(SettingError, match="Unknown setting 'seed' in 'crops'; expected some of [^.]*[.]$"):
        from_mapping(CropConfig, {"seed": 7}, "crops")


@pytest.mark.parametrize("command", [("build",), ("check", "mine")])
def test_commands_say_so(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "videos").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(
        "corpus: {name: folder, root: mine, settings: {seed: 7}}\nfusion: {seeds: [0], systems: {}}\n", encoding="utf-8"
    )
    result = run("corpus", *command)
    assert result.exit_code == 1
    assert "'seed' is a setting of corpus 'demo': remove it." in result.stderr
