"""Early fusion is one network over the concatenation."""

from __future__ import annotations

import torch


def test_it_is_the_unimodal_network_on_concatenated_embeddings(tiny, windows):
    dims = {"visual": 2, "audio": 3}
    early = tiny("concatenation", dims, channels=(4, 3))
    alone = tiny("tcn", {"joint": 5}, channels=(4, 3))
    alone.load_state_dict(
        {key.replace("branch.", "branches.joint."): value for key, value in early.state_dict().items()}
    )
    inputs = windows(dims, 2, 6)
    joint = torch.cat((inputs.embeddings["audio"], inputs.embeddings["visual"]), dim=-1)
    expected = alone(inputs._replace(embeddings={"joint": joint})).values
    torch.testing.assert_close(early(inputs).values, expected)


def test_parameters(count):
    assert count("concatenation", {"visual": 512}) == 2_215_296 + 256 + 129
    assert (
        count("concatenation", {"visual": 512, "audio": 1}) - count("concatenation", {"visual": 512}) == 256 * 5 + 256
    )
