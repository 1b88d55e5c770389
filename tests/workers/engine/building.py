"""Engines over the nano model, for tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from tests.workers.model.packing import DETERMINISTIC, build
from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Completion, Request
from workers.engine.samples import encode
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
