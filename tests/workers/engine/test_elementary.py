from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engine import elementary


def ulps(found: torch.Tensor, expected: list[float]) -> float:
    """The largest distance, in steps of float64 at the expected value."""
    wanted = np.array(expected)
    return float(np.max(np.abs(found.numpy() - wanted) / np.spacing(np.abs(wanted))))


@given(st.lists(st.floats(-700, 0), min_size=1, max_size=50))
def test_exp_is_right_to_the_last_bits(values: list[float]) -> None:
    found = elementary.exp(torch.tensor(values, dtype=torch.float64))
    assert ulps(found, [math.exp(value) for value in values]) <= 2


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=50))
def test_log_is_right_to_the_last_bits(values: list[float]) -> None:
    found = elementary.log(torch.tensor(values, dtype=torch.float64))
    np.testing.assert_allclose(found, [math.log(value) for value in values], rtol=1e-15, atol=1e-16)


def test_exp_of_what_is_too_small_is_nearly_nothing_and_nan_stays() -> None:
    found = elementary.exp(torch.tensor([0.0, -1e9, -math.inf, math.nan], dtype=torch.float64))
    assert found[0] == 1
    assert (found[1:3] < 1e-300).all()
    assert found[3].isnan()
    assert elementary.log(torch.tensor([math.nan], dtype=torch.float64)).isnan()


@pytest.mark.parametrize("function", [elementary.exp, elementary.log])
def test_an_element_does_not_depend_on_its_place(function: object) -> None:
    assert callable(function)
    values = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 30
    values = -values if function is elementary.exp else values
    alone = torch.stack([function(value) for value in values.clone()])
    for start in (0, 1, 3, 7):
        assert torch.equal(function(values[start:]), alone[start:])
