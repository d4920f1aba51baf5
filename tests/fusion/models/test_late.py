"""Late fusion is the mean of unimodal networks that have something to say."""

from __future__ import annotations

import torch

DIMS = {"audio": 3, "text": 4, "visual": 2}
SMALL = {"channels": (4,), "channels_of": {"audio": (3,)}}


def votes(late, tiny, inputs):
    result = {}
    for m in DIMS:
        alone = tiny("tcn", {m: DIMS[m]}, **SMALL)
        state = late.state_dict()
        own = {key: value for key, value in state.items() if key.startswith(f"branches.{m}.")}
        own |= {f"regress.{part}": state[f"regress.{m}.{part}"] for part in ("weight", "bias")}
        alone.load_state_dict(own)
        result[m] = alone(inputs).values
    return result


def test_it_is_the_mean_of_unimodal_networks(tiny, windows):
    late, inputs = tiny("late", DIMS, **SMALL), windows(DIMS, 2, 6)
    each = votes(late, tiny, inputs)
    torch.testing.assert_close(late(inputs).values, sum(each.values()) / 3)


def test_who_is_missing_from_a_window_does_not_vote_there(tiny, windows):
    late, inputs = tiny("late", DIMS, **SMALL), windows(DIMS, 3, 6, [6, 6, 4])
    for m, row in (("text", 0), *((m, 1) for m in DIMS), ("audio", 2)):
        inputs.embeddings[m][row] = 0
        inputs.valid[m][row] = False
    inputs.valid["audio"][2, 5] = True  # behind the end, where nobody votes
    inputs.valid["visual"][0, 1:] = False  # one frame is enough
    each, got = votes(late, tiny, inputs), late(inputs).values
    torch.testing.assert_close(got[0], (each["audio"][0] + each["visual"][0]) / 2)
    torch.testing.assert_close(got[1], sum(each.values())[1] / 3)
    torch.testing.assert_close(got[2, :4], ((each["text"] + each["visual"])[2] / 2)[:4])
