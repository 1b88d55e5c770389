"""Engines over the nano model, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from tests.workers.model.packing import DETERMINISTIC, build
from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Completion, Request
from workers.engine.samples import encode
from workers.engine.sampling import Asked, sample, stream_key
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics

OPTIONS = EngineOptions(pages=512, page_size=16, chunk=512)
FLIPPING = Numerics("streamk", torch.float32, deterministic=False)
"""In float32, since rounding to bfloat16 hides most of what stream-K does to so small a model."""


@cache
def model(numerics: Numerics) -> DeepseekV3:
    """Built once: it keeps nothing between calls."""
    return build(numerics)


def engine(numerics: Numerics = DETERMINISTIC, **options: int | bool | frozenset[int]) -> Engine:
    return Engine(model(numerics), replace(OPTIONS, **options))  # type: ignore[arg-type]


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def request(label: str, length: int = 40, seed: int = 0, **more: int | float) -> Request:
    return replace(Request(prompt(length, seed), label, max_new_tokens=8), **more)  # type: ignore[arg-type]


def bits(completion: Completion) -> tuple[bytes, bytes]:
    return encode(completion.tokens, completion.logprobs), completion.prompt_logprobs.tobytes()


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one row of logits: this token's logprob, or the next token and its logprob."""

    token: int | None
    temperature: float = 0.0
    seed: int = 0
    position: int = 0


def sampled(
    logits: torch.Tensor, wanted: Sequence[Wanted], *, deterministic: bool = True
) -> tuple[list[int], list[float]]:
    """Tokens and their logprobs."""
    drawn = [row for row, want in enumerate(wanted) if want.token is None and want.temperature > 0]
    keys = [stream_key(wanted[row].seed, wanted[row].position) for row in drawn]

    def tensor(values: list[int] | list[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=logits.device)

    asked = Asked(
        given=tensor([-1 if want.token is None else want.token for want in wanted], torch.int64),
        drawn=tensor(drawn, torch.int64),
        keys=tensor(keys, torch.int64),
        temperatures=tensor([wanted[row].temperature for row in drawn], torch.float64),
    )
    out = torch.full((len(wanted), 2), -7.0, dtype=torch.float64, device=logits.device)
    sample(logits, asked, out, deterministic=deterministic)
    return out[:, 0].long().tolist(), out[:, 1].tolist()
