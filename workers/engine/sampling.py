"""Which token comes next, and how likely each one was.

A token is drawn by the Gumbel-max rule: the likeliest after adding -log(-log u) to each logit, with one u for each
(seed, position, token id). The u come from SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014), whose n-th number is a hash of start + n * gamma, so that none depends on what else was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.engine import elementary

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class Asked:
    """What is wanted of R rows of logits. Tensors are on the logits' device; D of the rows are drawn."""

    given: torch.Tensor
    """(R,) int64: this token's logprob; -1: the next token, and its logprob"""
    drawn: torch.Tensor
    """(D,) int64, rows whose next token is drawn; of others that have none given the likeliest is taken"""
    keys: torch.Tensor
    """(D,) int64, ``stream_key`` of each"""
    temperatures: torch.Tensor
    """(D,) float64, above 0"""


def sample(logits: torch.Tensor, asked: Asked, out: torch.Tensor, *, deterministic: bool) -> None:
    """The token of each row of ``logits`` (R, vocabulary) float32, given or found, and its logprob, to ``out``.

    ``out`` is (R, 2) float64, contiguous, which holds both exactly. Tokens depend on their row alone. So do logprobs,
    which are rounded to float32, with ``deterministic``; without it they are torch's own.
    """
    given = asked.given
    if len(asked.drawn):
        scores = logits[asked.drawn].double() / asked.temperatures[:, None]
        scores += gumbel_noise(asked.keys, logits.shape[1])
        given = given.index_copy(0, asked.drawn, scores.argmax(dim=1))
    if deterministic and logits.is_cuda:
        from workers.engine import triton_sampling

        triton_sampling.sample(logits.contiguous(), given, out)
        return
    tokens = torch.where(given < 0, logits.argmax(dim=1), given)
    out[:, 0] = tokens
    out[:, 1] = (_logprobs if deterministic else _torch_logprobs)(logits, tokens[:, None])


def put_sampled(tokens: torch.Tensor, sampled: torch.Tensor) -> None:
    """Put in place of each of ``tokens`` (T,) int64 that is -1 - row the token of that row of ``sampled`` (R, 2)."""
    if tokens.is_cuda:
        from workers.engine import triton_sampling

        triton_sampling.put_sampled(tokens, sampled)
        return
    tokens.copy_(torch.where(tokens < 0, sampled[-1 - tokens.clamp(max=-1), 0].long(), tokens))


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


def _torch_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, dim=1).gather(1, tokens)[:, 0]


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, rounded once. Each operation is of single elements or, as the maximum, does not round."""
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
