"""Plain values become settings, and every fault of them is found, each with its full key."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import SettingError
from cache.names import config_of
from cache.settings import check_ranges, make_settings, parse_settings
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from fusion.models import MODELS
from fusion.settings import TrainConfig


@dataclass(frozen=True)
class Inner:
    """A section."""

    width: int = 4
    share: float = 0.5
    names: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_ranges("a section", self, {"width": (1, 8), "share": (0, 1)}, {})
        if self.width % 2:
            raise SettingError(f"width {self.width} is odd. Change it.")


@dataclass(frozen=True)
class Outer:
    """Sections in a section."""

    kind: str
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    deep: bool = True
    limit: float | None = None
    free: dict[str, Any] = field(default_factory=dict)


def faults_of(kind: type, values: Any) -> dict[str, str]:
    with pytest.raises(SettingError) as caught:
        make_settings(kind, values, "'some.yaml'")
    assert "'some.yaml'" in str(caught.value)
    for key, text in caught.value.faults.items():
        assert (f"'{key}' {text}" if key else f"'some.yaml' {text}") in str(caught.value)
    return caught.value.faults


def test_plain_values_become_settings() -> None:
    values = {
        "kind": "a",
        "inner": {"share": 1, "names": ["x"], "span": [0, 2]},
        "parts": {"p": {"width": 2}},
        "limit": 3,
    }
    made = make_settings(Outer, values, "'some.yaml'")
    assert made == Outer("a", Inner(share=1.0, names=("x",), span=(0.0, 2.0)), {"p": Inner(2)}, limit=3.0)
    assert isinstance(made.inner.share, float)
    assert make_settings(Outer, {"kind": "a", "limit": None}, "") == Outer("a")


def test_every_fault_is_found() -> None:
    faults = faults_of(
        Outer,
        {
            "knid": "a",
            "inner": {"width": True, "share": 7, "names": "abc", "span": [1]},
            "parts": {"odd": {"width": 3}, "wide": {"width": 9}, "none": 3, "text": {"share": "half", "wdith": 1}},
            "numbers": [1, "two"],
            "deep": 1,
            "limit": float("nan"),
            "free": [],
        },
    )
    expected = {
        "kind": ["missing"],
        "knid": ["'a'", "unknown", "'kind'"],
        "inner.width": ["True", "whole number"],
        "inner.share": ["7", "0 to 1"],
        "inner.names": ["'abc'", "list"],
        "inner.span": ["[1]", "2 values"],
        "parts.odd": ["width 3 is odd"],
        "parts.wide.width": ["9", "1 to 8"],
        "parts.none": ["3", "section", "width, share"],
        "parts.text.share": ["'half'", "number"],
        "parts.text.wdith": ["1", "'width'"],
        "numbers[1]": ["'two'", "whole number"],
        "deep": ["1", "true or false"],
        "limit": ["nan", "finite"],
        "free": ["[]", "section of names"],
    }
    assert faults.keys() == expected.keys()
    for key, words in expected.items():
        assert all(word in faults[key] for word in words), (key, faults[key])


def test_a_section_with_faults_is_not_refused_as_a_whole() -> None:
    assert faults_of(Inner, {"width": 3}).keys() == {""}
    assert faults_of(Inner, {"width": 3, "share": "a"}).keys() == {"share"}


@pytest.mark.parametrize("values", [7, None, "text", [1]])
def test_what_is_not_a_section_is_refused(values: Any) -> None:
    assert repr(values) in faults_of(Inner, values)[""]


def test_values_that_only_yaml_has() -> None:
    itself: dict[str, Any] = {"kind": "a"}
    itself["free"] = itself
    day = datetime.date(2020, 1, 2)
    assert "2020, 1, 2" in faults_of(Outer, {"kind": day})["kind"]
    assert "itself" in faults_of(Outer, itself)[""]
    assert faults_of(Outer, {"kind": "a", "parts": {1: {}, "free": {day: 1, None: 2}}}).keys() == {
        "parts.1",
        "parts.free.2020-01-02",
        "parts.free.null",
    }


def test_the_owner_of_an_unknown_name_is_named() -> None:
    _, faults = parse_settings(Inner, {"height": 3}, "a.b", lambda name: f"{name} belongs to C")
    assert faults["a.b.height"].endswith(". height belongs to C")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 10**6),
            "lr": st.floats(1e-9, 10) | st.integers(1, 10),
            "lambda_ce": st.none() | st.floats(0, 10),
            "targets": st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True),
            "tail": st.sampled_from(["align", "pad", "drop"]),
            "masked": st.booleans(),
        },
    )
)
def test_right_values_are_what_the_dataclass_holds(values: dict[str, Any]) -> None:
    made = make_settings(TrainConfig, values, "")
    assert made == TrainConfig(**{**values, "targets": tuple(values.get("targets", TrainConfig.targets))})
    assert make_settings(TrainConfig, asdict(made), "") == made


TARGETS = [*BACKBONES.values(), *MODELS.values(), *CORPORA.values()]


def test_settings_of_a_table_are_read_without_what_computes() -> None:
    """A `Config` that names something of a module with torch in it makes every command slower: name a table of names."""
    code = (
        "import pickle, sys\nfrom cache.names import config_of\n"
        f"for target in {TARGETS}:\n"
        "    config = config_of(target)()\n"
        "    assert config == config_of(target)()\n"
        "    assert not {'torch', 'scipy', 'transformers'} & set(sys.modules), target\n"
        "    pickle.dumps(config)\n"
        "sys.stdout.write(repr([vars(config_of(target)()) for target in " + repr(TARGETS) + "]))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for target in TARGETS:
        __import__(target.split(":")[0])
    assert result.stdout == repr([vars(config_of(target)()) for target in TARGETS])


def test_settings_read_from_source_are_sent_to_processes() -> None:
    code = (
        "import pickle, sys\nfrom cache.names import config_of\n"
        "sys.stdout.buffer.write(pickle.dumps(config_of('fusion.models.rnn:AudiovisualRNN')(d_model=3)))"
    )
    sent = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    from fusion.models.rnn import Config

    assert pickle.loads(sent) == Config(d_model=3)
