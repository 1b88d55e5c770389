"""Sampling on a GPU, over a vocabulary of DeepSeek-V3's size: a row's bits are its own."""

from __future__ import annotations

import math

import pytest
import torch

from workers.engine import elementary
from workers.engine.sampling import Wanted, gumbel_noise, sample

VOCABULARY = 129280


def logits(rows: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(rows)
    return torch.randn((rows, vocabulary), generator=generator, device="cuda") * 3


def test_a_logarithm_does_not_depend_on_its_place() -> None:
    values = torch.rand(1_000_003, dtype=torch.float64, device="cuda") * 30
    whole = elementary.log(values)
    for start, stop in ((0, 1), (1, 1000), (7, 999_999), (131_073, 1_000_003)):
        assert torch.equal(elementary.log(values[start:stop].clone()), whole[start:stop])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_does_not_depend_on_the_others(temperature: float) -> None:
    values = logits(64)
    wanted = [Wanted(None, temperature, row, 100 + row) for row in range(64)]
    tokens, logprobs = sample(values, wanted, deterministic=True)
    for rows in (1, 2, 3, 7, 33):
        for start in (0, 64 - rows):
            part = slice(start, start + rows)
            found = sample(values[part].clone(), wanted[part], deterministic=True)
            assert found == (tokens[part], logprobs[part])


def test_a_row_does_not_depend_on_its_place_in_memory() -> None:
    values = logits(5, 4099)
    whole = sample(values, [Wanted(None)] * 5, deterministic=True)
    for row in range(5):
        assert sample(values[row : row + 1], [Wanted(None)], deterministic=True) == (
            whole[0][row:][:1],
            whole[1][row:][:1],
        )


@pytest.mark.parametrize("vocabulary", [1, 300, 4096, VOCABULARY])
def test_logprobs_are_rounded_once(vocabulary: int) -> None:
    values = logits(200, vocabulary)
    given = [row % vocabulary for row in range(200)]
    _, logprobs = sample(values, [Wanted(token) for token in given], deterministic=True)
    exact = torch.log_softmax(values.double(), 1)[torch.arange(200), torch.tensor(given)]
    assert logprobs == exact.float().tolist()


def test_infinities_and_nan_are_their_rows_alone() -> None:
    values = logits(4)
    values[0, 5] = torch.nan
    values[1, 10_000:] = -torch.inf
    values[2, :100_000] = -torch.inf
    tokens, logprobs = sample(values, [Wanted(None)] * 4, deterministic=True)
    assert math.isnan(logprobs[0])
    exact = torch.log_softmax(values.double(), 1)[torch.arange(4), torch.tensor(tokens)]
    assert logprobs[1:] == exact[1:].float().tolist()


def test_of_equal_logits_the_first_is_taken() -> None:
    values = torch.zeros((5, VOCABULARY), device="cuda")
    values[:, 70_000:] = 1
    assert sample(values, [Wanted(None)] * 5, deterministic=True)[0] == [70_000] * 5


def test_noise_is_the_cpus_but_for_the_last_bits() -> None:
    keys = torch.tensor([0, -5, 2**62])
    here = gumbel_noise(keys.cuda(), 1000).cpu()
    torch.testing.assert_close(here, gumbel_noise(keys, 1000), rtol=1e-12, atol=1e-12)
