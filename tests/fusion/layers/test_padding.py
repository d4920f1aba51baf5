"""Padding is found, cleared without touching the inputs, and costs nothing where there is none."""

from __future__ import annotations

import pytest
import torch

from cache.errors import ShapeError
from fusion.layers.padding import clear_padding, find_inside, require_length
from fusion.model import Inputs


def inputs_of(lengths: list[int]) -> Inputs:
    x = torch.full((len(lengths), 4, 2), 5.0)
    x[:, 3] = torch.nan
    return Inputs({"a": x}, {"a": torch.ones(len(lengths), 4, dtype=torch.bool)}, torch.tensor(lengths))


def test_inside_is_true_up_to_the_length():
    inside = find_inside(inputs_of([3, 1]))
    assert inside is not None
    assert inside.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert find_inside(inputs_of([4, 4])) is None


def test_cleared_padding_is_zero_even_where_it_was_nan():
    inputs = inputs_of([3, 1])
    cleared = clear_padding(inputs, ["a"])["a"]
    assert cleared.isfinite().all()
    assert cleared.sum(dim=(1, 2)).tolist() == [30.0, 10.0]
    assert inputs.embeddings["a"][:, 3].isnan().all()
    whole = inputs_of([4, 4])
    assert clear_padding(whole, ["a"])["a"] is whole.embeddings["a"]


def test_a_wrong_length_is_refused_with_a_remedy():
    require_length("some_model", inputs_of([4]), 4)
    with pytest.raises(ShapeError, match="Model 'some_model' got windows of 4 frames, expected 300. Pad them"):
        require_length("some_model", inputs_of([4]), 300)
