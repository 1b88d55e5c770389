from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.building import Wanted, sampled
from workers.engine.sampling import gumbel_noise, put_sampled, stream_key

GREEDY = Wanted(None)


def logits(rows: int, vocabulary: int = 300, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, vocabulary), generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 300])
def test_greedy_takes_the_likeliest_and_says_how_likely_it_was(deterministic: bool, vocabulary: int) -> None:
    values = logits(5, vocabulary)
    tokens, logprobs = sampled(values, [GREEDY] * 5, deterministic=deterministic)
    assert tokens == values.argmax(1).tolist()
    expected = torch.log_softmax(values.double(), 1).amax(1)
    assert logprobs == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-7)


def test_deterministic_logprobs_are_rounded_once() -> None:
    values = logits(200)
    _, logprobs = sampled(values, [Wanted(token) for token in range(200)])
    exact = torch.log_softmax(values.double(), 1)[torch.arange(200), torch.arange(200)]
    assert logprobs == exact.float().tolist()


def test_of_equal_logits_the_first_is_taken() -> None:
    values = torch.tensor([[0.0, 2.0, 2.0]])
    assert sampled(values, [GREEDY])[0] == [1]


def test_given_tokens_are_scored_not_drawn() -> None:
    values = logits(2)
    tokens, logprobs = sampled(values, [Wanted(7), GREEDY])
    assert tokens == [7, int(values[1].argmax())]
    assert logprobs[0] == pytest.approx(float(torch.log_softmax(values[0], 0)[7]), rel=1e-6)


def test_nan_is_told_and_does_not_spread() -> None:
    values = logits(2)
    values[0, 5] = math.nan
    tokens, logprobs = sampled(values, [GREEDY] * 2)
    assert math.isnan(logprobs[0])
    assert (tokens[1], logprobs[1]) == tuple(x[0] for x in sampled(values[1:], [GREEDY]))


@given(
    rows=st.integers(1, 70),
    vocabulary=st.integers(1, 600),
    place=st.integers(0, 69),
    temperature=st.sampled_from([0, 1]),
)
def test_a_row_does_not_depend_on_the_others(rows: int, vocabulary: int, place: int, temperature: float) -> None:
    place %= rows
    values = logits(rows, vocabulary)
    wanted = [Wanted(None, temperature if row % 3 else 0.7, row, 100 - row) for row in range(rows)]
    tokens, logprobs = sampled(values, wanted)
    alone = sampled(values[place : place + 1].clone(), wanted[place : place + 1])
    assert alone == ([tokens[place]], [logprobs[place]])


def test_the_same_seed_and_position_draw_the_same_token_again() -> None:
    values = logits(1).expand(3, -1)
    seeds = [Wanted(None, 1.0, 42, 9), Wanted(None, 1.0, 42, 9), Wanted(None, 1.0, 42, 9)]
    tokens, _ = sampled(values, seeds)
    assert len(set(tokens)) == 1


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """Chi-squared with 4 degrees of freedom: above 18.5 once in a thousand seeds; the seeds here are fixed."""
    values, draws = torch.tensor([0.0, 1.0, 2.0, 0.5, -1.0]), 20_000
    temperature = 0.8
    for wanted in (
        [Wanted(None, temperature, seed, 3) for seed in range(draws)],
        [Wanted(None, temperature, 3, position) for position in range(draws)],
    ):
        tokens, logprobs = sampled(values.expand(draws, -1), wanted)
        expected = torch.softmax(values / temperature, 0) * draws
        counts = Counter(tokens)
        assert sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in range(5)) < 18.5
        # Of the model's own distribution, whatever the temperature.
        assert logprobs[0] == pytest.approx(float(torch.log_softmax(values, 0)[tokens[0]]), rel=1e-6)


def test_noise_is_that_of_splitmix64() -> None:
    """Its numbers from a zero state, as Vigna's splitmix64.c prints them."""
    numbers = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    expected = [-math.log(-math.log(((number >> 12) + 0.5) / 2**52)) for number in numbers]
    assert gumbel_noise(torch.tensor([0]), 3)[0].tolist() == pytest.approx(expected, rel=1e-14)


def test_keys_differ_by_seed_and_by_position() -> None:
    keys = {stream_key(seed, position) for seed in (-1, 0, 1, 42, 2**63) for position in range(1000)}
    assert len(keys) == 5000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert stream_key(-1, 5) == stream_key(2**64 - 1, 5)


def test_tokens_that_were_not_known_are_put_in() -> None:
    sampled_before = torch.tensor([[70.0, -0.5], [80.0, -0.5], [2.0**40, -0.5]], dtype=torch.float64)
    tokens = torch.tensor([5, -1, 0, -3, -2])
    put_sampled(tokens, sampled_before)
    assert tokens.tolist() == [5, 70, 0, 2**40, 80]
