"""Which token comes next, and how likely each one was.

A token is drawn by the Gumbel-max rule: the likeliest after adding -log(-log u) to each logit, with one u for each
(seed, position, token id). The u come from SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014), whose n-th number is a hash of start + n * gamma, so that none depends on what else was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers.engine import elementary

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one row of logits."""

    token: int | None
    """This token's logprob; None: the next token, and its logprob."""
    temperature: float = 0.0
    seed: int = 0
    position: int = 0
    """Of the token that is drawn, in its sequence."""


def sample(logits: torch.Tensor, wanted: Sequence[Wanted], *, deterministic: bool) -> tuple[list[int], list[float]]:
    """The token of each row of ``logits`` (R, vocabulary) float32, given or drawn, and its logprob, float32.

    Tokens depend on their row alone. So do logprobs with ``deterministic``; without it they are torch's own.
    """
    tokens = _choose(logits, wanted)
    logprobs = (_logprobs if deterministic else _torch_logprobs)(logits, tokens[:, None])
    return tokens.tolist(), logprobs.tolist()


def gumbel_noise(keys: torch.Tensor, count: int) -> torch.Tensor:
    """(len(keys), count) float64: -log(-log u) of the first numbers of each key's stream. ``keys`` are int64."""
    numbers = torch.arange(1, count + 1, device=keys.device) * _signed(_GAMMA)
    bits = _hash_tensor(keys[:, None] + numbers)
    # 52 bits and a half: neither 0 nor 1, and exact.
    uniform = (_shift_right(bits, 12).double() + 0.5) * 2.0**-52
    return -elementary.log(-elementary.log(uniform))


def stream_key(seed: int, position: int) -> int:
    """Where the stream of a (seed, position) starts, as a signed 64-bit number; seeds count modulo 2^64."""
    return _signed(_hash(_hash(seed & _MASK) + position * _GAMMA & _MASK))


def _choose(logits: torch.Tensor, wanted: Sequence[Wanted]) -> torch.Tensor:
    tokens = logits.argmax(dim=1)
    drawn = [row for row, want in enumerate(wanted) if want.token is None and want.temperature > 0]
    if drawn:
        wants = [wanted[row] for row in drawn]
        rows = torch.tensor(drawn, device=logits.device)
        keys = torch.tensor([stream_key(want.seed, want.position) for want in wants], device=logits.device)
        temperatures = torch.tensor([want.temperature for want in wants], dtype=torch.float64, device=logits.device)
        scores = logits[rows].double() / temperatures[:, None] + gumbel_noise(keys, logits.shape[1])
        tokens[rows] = scores.argmax(dim=1)
    given = [(row, want.token) for row, want in enumerate(wanted) if want.token is not None]
    if given:
        rows, ids = torch.tensor(given, device=logits.device).T
        tokens[rows] = ids
    return tokens


def _torch_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, dim=1).gather(1, tokens)[:, 0]


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, rounded once. On the CPU each operation is of single elements or, as the maximum, does not round."""
    if logits.is_cuda:
        from workers.engine import triton_sampling

        return triton_sampling.logprobs(logits.contiguous(), tokens)
    top = logits.amax(dim=1, keepdim=True)
    rows, vocabulary = logits.shape
    width = 1 << (vocabulary - 1).bit_length()
    sums = torch.zeros((rows, width), dtype=torch.float64, device=logits.device)
    sums[:, :vocabulary] = elementary.exp(logits.double() - top)
    while width > 1:
        # A tree of additions of whole columns: its shape depends on the vocabulary only.
        width //= 2
        sums = sums[:, :width] + sums[:, width:]
    return (logits.gather(1, tokens).double() - top - elementary.log(sums)).float()[:, 0]


def _hash(value: int) -> int:
    value = (value ^ value >> 30) * _MULTIPLIERS[0] & _MASK
    value = (value ^ value >> 27) * _MULTIPLIERS[1] & _MASK
    return value ^ value >> 31


def _hash_tensor(value: torch.Tensor) -> torch.Tensor:
    """``_hash`` of 64-bit numbers that int64 holds; its products wrap around as unsigned ones do."""
    value = (value ^ _shift_right(value, 30)) * _signed(_MULTIPLIERS[0])
    value = (value ^ _shift_right(value, 27)) * _signed(_MULTIPLIERS[1])
    return value ^ _shift_right(value, 31)


def _shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    return (value >> bits) & ((1 << 64 - bits) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
