"""What every fusion model promises, over the table; and the parameter counts of the papers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

import fusion.models
from cache.errors import SettingError, UnknownNameError
from fusion.model import FusionModel, Inputs
from fusion.models import MODELS
from fusion.scores.losses import Objective
from fusion.training.building import build_model

DIMS = {"visual": 7, "audio": 5, "text": 3}
TARGETS = ("valence", "arousal")
BAR = 0.1  # of the loss of an overfitted model
# Small enough for a test that trains; a model that is not here is tested with its defaults.
SMALL = {"channels": (16, 8), "channels_of": {"audio": (8, 8)}}
SETTINGS: dict[str, list[dict]] = {
    "channel_attention": [SMALL | {"channels_of": {"audio": (8, 8), "text": (8,)}, "width": 16}],
    "concatenation": [{"channels": (16, 16)}],
    "cross_modal_attention": [
        {"d_model": 16, "d_ff": 16, "n_layers": 1, "n_heads": 2, "n_cross_of": {"visual_to_audio": 2}},
        # more than one cross layer has, by the authors' flaw, weights without a gradient
        {
            "d_model": 16,
            "d_ff": 16,
            "n_layers": 1,
            "n_heads": 2,
            "n_cross_of": {"visual_to_audio": 1},
            "variant": "multv2",
        },
        {
            "d_model": 16,
            "d_ff": 16,
            "n_layers": 1,
            "n_heads": 2,
            "n_cross_of": {"visual_to_audio": 1},
            "variant": "gatedmultv2",
        },
    ],
    "joint_cross_attention": [{"length": 10, "d_attention": 8}],
    "late": [SMALL],
    "leader_follower": [SMALL | {"modal_dim": 8}],
    "linear": [{"spans": tuple(range(1, 18, 2))}],
    "recursive_cross_attention": [
        SMALL | {"channels_of": {"audio": (8, 8), "text": (8,)}, "length": 10, **extra}
        for extra in ({}, {"variant": "paper", "n_iterations": 1}, {"joint": "all"})
    ],
    "rnn": [{}, {"n_layers": 2, "bidirectional": True, "activation": "gelu", "d_hidden": 6}],
    "self_attention": [
        {"d_model": 16, "d_ff": 16, "n_layers": 2, "n_heads": 2},
        {"d_model": 16, "d_ff": 16, "n_layers": 1, "n_heads": 2, "activation": "selu"},
    ],
    "tcn": [SMALL],
}
CASES = [(name, settings) for name in MODELS for settings in SETTINGS.get(name, [{}])]
every_model = pytest.mark.parametrize(("name", "settings"), CASES)


def make(name: str, settings: dict, dims: dict[str, int] = DIMS, targets: tuple[str, ...] = TARGETS) -> FusionModel:
    torch.manual_seed(0)
    return build_model(name, dims, targets, settings).eval()


def make_inputs(model: FusionModel, lengths: list[int], num_frames: int = 9) -> Inputs:
    num_frames = model.fixed_length or num_frames
    lengths = [min(length, num_frames) for length in lengths]
    generator = torch.Generator().manual_seed(1)
    inside = torch.arange(num_frames) < torch.tensor(lengths)[:, None]
    embeddings = {
        m: torch.randn(len(lengths), num_frames, d, generator=generator) * inside[..., None]
        for m, d in model.dims.items()
    }
    return Inputs(embeddings, {m: inside.clone() for m in model.dims}, torch.tensor(lengths))


def test_table_and_files_agree():
    files = {path.stem for path in Path(fusion.models.__file__).parent.glob("*.py")} - {"__init__"}
    assert {target.split(":")[0].rsplit(".", 1)[1] for target in MODELS.values()} == files
    assert list(MODELS) == sorted(files)


@every_model
def test_shapes(name, settings):
    model = make(name, settings)
    inputs = make_inputs(model, [9, 4, 1])
    estimate = model(inputs)
    frames = inputs.embeddings["audio"].shape[1]
    assert estimate.values.shape == (3, frames, 2)
    assert estimate.values.dtype == torch.float32
    assert estimate.logits is None or estimate.logits.shape == (3, frames, 24)


@every_model
@pytest.mark.parametrize("dims", [{"audio": 4}, {"visual": 6, "audio": 4}, DIMS, {"pulse": 2, "gaze": 3}])
def test_any_set_of_modalities_and_targets(name, settings, dims):
    model = make(name, settings, dims, ("arousal",))
    estimate = model(make_inputs(model, [9, 4]))
    assert estimate.values.shape[-1] == 1
    assert estimate.logits is None
    assert estimate.values.isfinite().all()


@every_model
def test_modalities_may_have_names_that_torch_uses(name, settings):
    """A layer's own methods and attributes are not in the way, not even in a checkpoint."""
    names = ("train", "items", "dims", "sources", "training", "forward")
    settings = {key: value for key, value in settings.items() if key not in ("channels_of", "n_cross_of")}
    model = make(name, settings, dict.fromkeys(names, 3))
    inputs = make_inputs(model, [9, 4])
    again = make(name, settings, dict.fromkeys(names, 3))
    for parameter in again.parameters():
        torch.nn.init.zeros_(parameter)
    again.load_state_dict(copy.deepcopy(model).train().eval().state_dict())
    for estimate, expected in zip(again(inputs), model(inputs), strict=True):
        if expected is not None:
            torch.testing.assert_close(estimate, expected)


@every_model
def test_padding_never_changes_a_frame_inside(name, settings):
    model = make(name, settings)
    clean = make_inputs(model, [9, 4, 1])
    dirty = make_inputs(model, [9, 4, 1])
    for rows in dirty.embeddings.values():
        for row, length in zip(rows, clean.lengths.tolist(), strict=True):
            row[length:] = 77.0
    before, after = model(clean), model(dirty)
    for row, length in enumerate(clean.lengths.tolist()):
        assert torch.equal(before.values[row, :length], after.values[row, :length])
        if model.fixed_length is None:
            alone = Inputs(
                {m: x[row : row + 1, :length] for m, x in clean.embeddings.items()},
                {m: x[row : row + 1, :length] for m, x in clean.valid.items()},
                clean.lengths[row : row + 1],
            )
            torch.testing.assert_close(model(alone).values[0], before.values[row, :length], rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.parametrize("missing", list(DIMS))
def test_a_modality_may_be_missing(name, settings, missing):
    model = make(name, settings)
    inputs = make_inputs(model, [9, 4])
    full = model(inputs).values
    inputs.embeddings[missing].zero_()
    inputs.valid[missing].fill_(False)
    estimate = model(inputs)
    assert estimate.values[0].isfinite().all()
    assert not torch.allclose(estimate.values[0], full[0]), f"{missing} has no influence"


@every_model
@pytest.mark.parametrize("dims", [{"audio": 4}, DIMS])
def test_a_model_without_an_obstacle_steps_through_a_trial_as_it_reads_it_whole(name, settings, dims):
    """In pieces of some frames, longer in all than what a convolution sees; a frame without input among them."""
    model = make(name, settings, dims)
    if model.obstacle:
        assert f"'{name}'" in model.obstacle
        assert "train " in model.obstacle
        return
    inputs = make_inputs(model, [40], 40)
    for rows, valid in zip(inputs.embeddings.values(), inputs.valid.values(), strict=True):
        rows[:, 20] = 0
        valid[:, 20] = False
    found, state, start = [], None, 0
    for stop in (1, 2, 5, 19, 20, 21, 22, 39, 40):
        piece = Inputs(
            {m: rows[:, start:stop] for m, rows in inputs.embeddings.items()},
            {m: rows[:, start:stop] for m, rows in inputs.valid.items()},
            torch.tensor([stop - start]),
        )
        estimate, state = model.step(piece, state)
        found.append(estimate)
        start = stop
    whole = model(inputs)
    torch.testing.assert_close(torch.cat([one.values for one in found], dim=1), whole.values, rtol=0, atol=1e-5)
    if whole.logits is not None:
        logits = torch.cat([one.logits for one in found if one.logits is not None], dim=1)
        torch.testing.assert_close(logits, whole.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "dims"),
    [("rnn", {"bidirectional": True}, DIMS), ("late", SMALL, DIMS), ("linear", {}, DIMS), ("self_attention", {}, DIMS)],
)
def test_what_looks_ahead_has_an_obstacle(name, settings, dims):
    assert make(name, settings, dims).obstacle


@pytest.mark.parametrize(
    ("name", "settings", "dims"),
    [
        ("rnn", {}, DIMS),
        ("late", SMALL, {"audio": 4}),
        ("linear", {"spans": (1,)}, DIMS),
        *((name, SMALL, DIMS) for name in ("tcn", "channel_attention", "leader_follower")),
        ("concatenation", {"channels": (16, 16)}, DIMS),
    ],
)
def test_what_only_looks_back_has_none(name, settings, dims):
    test_a_model_without_an_obstacle_steps_through_a_trial_as_it_reads_it_whole(name, settings, dims)
    assert not make(name, settings, dims).obstacle


@every_model
def test_inputs_are_not_changed(name, settings):
    model = make(name, settings).train()
    inputs = make_inputs(model, [9, 4])
    before = make_inputs(model, [9, 4])
    model(inputs).values.sum().backward()
    for modality in DIMS:
        assert torch.equal(inputs.embeddings[modality], before.embeddings[modality])
        assert torch.equal(inputs.valid[modality], before.valid[modality])
    assert torch.equal(inputs.lengths, before.lengths)


@every_model
def test_gradients_reach_every_parameter(name, settings):
    model = make(name, settings).train()
    estimate = model(make_inputs(model, [9, 4, 7]))
    loss = (estimate.values[:, :4] ** 2).sum() + (0 if estimate.logits is None else (estimate.logits[:, :4] ** 2).sum())
    loss.backward()
    dead = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert dead == []


@every_model
def test_evaluation_is_deterministic_and_rebuilt_by_its_settings(name, settings):
    model = make(name, settings)
    inputs = make_inputs(model, [9, 4])
    twin = build_model(model.name, model.dims, model.targets, model.settings).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(inputs).values, model(inputs).values)
    assert torch.equal(model(inputs).values, twin(inputs).values)


def make_lesson(model: FusionModel, blind_to: str = "") -> tuple[Inputs, torch.Tensor]:
    """Eight windows, one for every choice between two versions of each modality; the target adds up what these say.

    A model that is blind to a modality sees four pairs of equal windows. They ask for opposite things in a third of the
    target's variance; it is lost, and what is left allows a CCC of at most (2/3)^0.5, a loss of at least 0.18.
    """
    generator = torch.Generator().manual_seed(1)
    frames = model.fixed_length or 9
    choices = torch.arange(8)[:, None] >> torch.arange(len(model.dims)) & 1
    embeddings, target = {}, torch.zeros(8, frames, len(TARGETS))
    for (modality, dim), choice in zip(model.dims.items(), choices.T, strict=True):
        versions = torch.randn(2, frames, dim, generator=generator)
        embeddings[modality] = versions[choice] * (modality != blind_to)
        said = torch.randn(frames, len(TARGETS), generator=generator)
        target += (2 * choice - 1)[:, None, None] * said / said.square().mean(dim=0).sqrt()
    inside = torch.ones(8, frames, dtype=torch.bool)
    return Inputs(embeddings, dict.fromkeys(embeddings, inside), inside.sum(dim=1)), target / target.abs().max()


def learn(model: FusionModel, inputs: Inputs, target: torch.Tensor, steps: int, lr: float = 0.02) -> float:
    """The loss of the best step; no step follows one under BAR. The last step of such an optimiser is anyone's guess."""
    objective = Objective(TARGETS, "batch", 0.5, 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    best = math.inf
    for _ in range(steps):
        loss = objective(model(inputs), target, inputs.valid["audio"][..., None].expand_as(target))
        best = min(best, float(loss.detach()))
        if best < BAR:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return best


@every_model
def test_overfits_eight_windows(name, settings):
    """The models need 8 to 48 steps, whatever the seed, the instruction set and the number of threads."""
    model = make(name, settings)
    assert learn(model, *make_lesson(model), steps=200) < BAR


@pytest.mark.parametrize("missing", DIMS)
def test_a_model_that_misses_a_modality_does_not_pass(missing):
    model = make("rnn", {})
    assert learn(model, *make_lesson(model, blind_to=missing), steps=100) > 1.5 * BAR


def test_a_model_that_is_not_trained_does_not_pass():
    model = make("rnn", {})
    assert learn(model, *make_lesson(model), steps=2, lr=0.0) > 5 * BAR


@every_model
def test_settings_are_checked(name, settings):
    with pytest.raises(SettingError, match=r"'d_modle' is 3, an unknown setting; expected one of \w+"):
        build_model(name, DIMS, TARGETS, {**settings, "d_modle": 3})
    with pytest.raises(SettingError, match="at least one of each"):
        build_model(name, {}, TARGETS, settings)


def test_unknown_model_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="Unknown fusion model 'rnnn'.*Did you mean 'rnn'"):
        build_model("rnnn", DIMS, TARGETS, {})


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 75_994),  # the [Karas2022, Table 4] configuration, 76 K in Table 5
        ({"n_layers": 2}, 109_274),  # AV-RNN Inception
        ({"d_model": 256, "d_hidden": 256, "n_layers": 3, "bidirectional": True}, 4_384_026),  # AV-RNN Mobile
    ],
)
def test_rnn_has_the_parameters_of_the_paper(settings, count):
    model = build_model("rnn", {"audio": 128, "visual": 512}, TARGETS, settings)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_rnn_refuses_impossible_settings():
    with pytest.raises(SettingError) as caught:
        build_model("rnn", DIMS, TARGETS, {"dropout": 2.0, "activation": "tanh"})
    assert caught.value.faults.keys() == {"dropout", "activation"}


def test_rnn_alone_feeds_the_lstm_directly():
    model = build_model("rnn", {"visual": 512}, TARGETS, {})
    assert model.lstm.input_size == 512
    assert sum(parameter.numel() for parameter in model.parameters()) == 4 * 64 * (512 + 64 + 2) + 65 * 26
