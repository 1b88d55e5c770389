"""What the engine is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specs.errors import UsageError, shown


@dataclass(frozen=True)
class Request:
    """A prompt, and how to go on from it."""

    tokens: tuple[int, ...]
    """The prompt's ids; at least one."""
    label: str
    """Different for each request of a call, and stable over runs: traces align rows by (label, position)."""
    max_new_tokens: int = 100
    """0 only fills the cache and scores the prompt."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    sampling_seed: int = 42
    """Used above temperature 0, together with the token's position and with nothing else."""
    logprobs_from: int | None = None
    """First position of the prompt whose logprob is wanted, at least 1, since nothing comes before position 0."""
    arrives_at_step: int = 0
    """Forward passes of the call before which the scheduler does not see the request."""


@dataclass(frozen=True, eq=False)
class Completion:
    """The tokens that followed a prompt. Logprobs are of the model's own distribution, at temperature 1."""

    label: str
    tokens: tuple[int, ...]
    """A stop token, where one ended it, is the last."""
    logprobs: NDArray[np.float32]
    """Of each of ``tokens``."""
    prompt_logprobs: NDArray[np.float32]
    """Of the prompt's tokens from ``logprobs_from`` on; empty where none were asked for."""
    finish: Literal["length", "stop"]
    cached_tokens: int
    """Of the prompt, taken from the prefix cache when the request was first scheduled."""
    preemptions: int
    """How often its pages were taken from it, and computed again later."""


@dataclass(frozen=True)
class Limits:
    """What a request has to fit into."""

    vocab_size: int
    max_positions: int
    pages: int
    page_size: int


def check_requests(requests: Sequence[Request], limits: Limits) -> None:
    """Raises UsageError for the first request that can't be run, or where two have one label."""
    labels: set[str] = set()
    for request in requests:
        problem = _problem(request, limits)
        if request.label in labels:
            problem = "another request of this call has the same label; give each its own"
        if problem:
            raise UsageError(f"request {shown(request.label)!r}: {problem}")
        labels.add(request.label)


def _problem(request: Request, limits: Limits) -> str | None:
    prompt, new = len(request.tokens), request.max_new_tokens
    if prompt == 0:
        return "the prompt has no tokens; at least 1 is needed"
    outside = next((token for token in request.tokens if not 0 <= token < limits.vocab_size), None)
    if outside is not None:
        return f"the prompt has token {outside}; this model's are 0 to {limits.vocab_size - 1}"
    if new < 0:
        return f"max_new_tokens is {new}; at least 0 is allowed"
    if not (math.isfinite(request.temperature) and request.temperature >= 0):
        return f"temperature is {request.temperature}; 0 and finite numbers above it are allowed"
    if request.arrives_at_step < 0:
        return f"arrives_at_step is {request.arrives_at_step}; at least 0 is allowed"
    if request.logprobs_from is not None and not 1 <= request.logprobs_from <= prompt:
        return f"logprobs_from is {request.logprobs_from}; 1 to the prompt's {prompt} tokens are allowed"
    if prompt + new > limits.max_positions:
        return (
            f"{prompt} tokens and {new} new ones are more than the model's {limits.max_positions} positions; "
            "shorten the prompt or lower max_new_tokens"
        )
    needed = -(-cache_slots(request) // limits.page_size)
    if needed > limits.pages:
        return (
            f"{prompt} tokens and {new} new ones need {needed} pages of {limits.page_size} tokens, and the cache has "
            f"{limits.pages}; raise pages, shorten the prompt or lower max_new_tokens"
        )
    return None


def cache_slots(request: Request) -> int:
    """The most tokens that the cache holds for a request: the last new token is never put in."""
    return len(request.tokens) + max(request.max_new_tokens - 1, 0)
