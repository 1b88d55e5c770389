"""Sampling on a GPU, over a vocabulary of DeepSeek-V3's size: a row's bits are its own."""

from __future__ import annotations

import math

import pytest
import torch

from tests.workers.engine.building import Wanted, sampled
from workers.engine import elementary
from workers.engine.sampling import gumbel_noise, put_sampled

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
    tokens, logprobs = sampled(values, wanted)
    for rows in (1, 2, 3, 7, 33):
        for start in (0, 64 - rows):
            part = slice(start, start + rows)
            found = sampled(values[part].clone(), wanted[part])
            assert found == (tokens[part], logprobs[part])


def test_a_row_does_not_depend_on_its_place_in_memory() -> None:
    values = logits(5, 4099)
    whole = sampled(values, [Wanted(None)] * 5)
    for row in range(5):
        assert sampled(values[row : row + 1], [Wanted(None)]) == (
            whole[0][row:][:1],
            whole[1][row:][:1],
        )


@pytest.mark.parametrize("vocabulary", [1, 300, 4096, VOCABULARY])
def test_logprobs_are_rounded_once(vocabulary: int) -> None:
    values = logits(200, vocabulary)
    given = [row % vocabulary for row in range(200)]
    _, logprobs = sampled(values, [Wanted(token) for token in given])
    exact = torch.log_softmax(values.double(), 1)[torch.arange(200), torch.tensor(given)]
    assert logprobs == exact.float().tolist()


def test_infinities_and_nan_are_their_rows_alone() -> None:
    values = logits(4)
    values[0, 5] = torch.nan
    values[1, 10_000:] = -torch.inf
    values[2, :100_000] = -torch.inf
    tokens, logprobs = sampled(values, [Wanted(None)] * 4)
    assert math.isnan(logprobs[0])
    exact = torch.log_softmax(values.double(), 1)[torch.arange(4), torch.tensor(tokens)]
    assert logprobs[1:] == exact[1:].float().tolist()


def test_of_equal_logits_the_first_is_taken() -> None:
    values = torch.zeros((5, VOCABULARY), device="cuda")
    values[:, 70_000:] = 1
    assert sampled(values, [Wanted(None)] * 5)[0] == [70_000] * 5


def test_noise_is_the_cpus_but_for_the_last_bits() -> None:
    keys = torch.tensor([0, -5, 2**62])
    here = gumbel_noise(keys.cuda(), 1000).cpu()
    torch.testing.assert_close(here, gumbel_noise(keys, 1000), rtol=1e-12, atol=1e-12)


def test_tokens_that_were_not_known_are_put_in() -> None:
    before = torch.tensor([[7.0 * row, -0.5] for row in range(300)], dtype=torch.float64, device="cuda")
    tokens = torch.tensor([token if token % 3 else -1 - token // 3 for token in range(900)], device="cuda")
    expected = [token if token % 3 else 7 * (token // 3) for token in range(900)]
    put_sampled(tokens, before)
    assert tokens.tolist() == expected
