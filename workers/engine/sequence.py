"""A request on its way through the engine."""

from __future__ import annotations

import numpy as np

from workers.engine.prefix_cache import Node
from workers.engine.request import Completion, Request, cache_slots


class Sequence:
    """Prompt and new tokens, how many of them are in the cache, and in which pages.

    ``tokens[:computed]`` are in the cache, in pages ``table[:held]``; ``path`` are the tree's nodes of the first of
    these, all that are full.
    """

    def __init__(self, request: Request, place: int, page_size: int) -> None:
        self.request, self.place = request, place
        self.tokens = list(request.tokens)
        """A last one below 0 is not known yet: -1 - the row of the pass in which it is sampled."""
        self.computed = 0
        self.table = np.empty(-(-cache_slots(request) // page_size), dtype=np.int32)
        self.held = 0
        self.path: list[Node] = []
        self.logprobs: list[float] = []
        self.prompt_logprobs: list[float] = []
        self.scored = 0
        """Prompt tokens whose logprobs are there, or come with a pass that has begun."""
        self.cached_tokens: int | None = None
        self.preemptions = 0
        self.stopped = False

    @property
    def pending(self) -> int:
        """Tokens not in the cache; 1 for a sequence that is decoding."""
        return len(self.tokens) - self.computed

    @property
    def finished(self) -> bool:
        new = len(self.tokens) - len(self.request.tokens)
        return self.stopped or (new == self.request.max_new_tokens and self._unscored() == 0 and self._prompt_is_in())

    def may_be_cached(self) -> int:
        """Tokens that need not be computed: all before the first whose logits are wanted."""
        unscored = self._unscored()
        return (len(self.request.tokens) - unscored if unscored else len(self.tokens)) - 1

    def wanted_rows(self, start: int, count: int) -> tuple[range, bool]:
        """Of the tokens at start .. start + count - 1: positions that score the prompt token after them, and whether
        the last one says what token comes next."""
        end = len(self.request.tokens) - 1
        first = max(start, end - self._unscored())
        last_is_in = start + count == len(self.tokens)
        new = len(self.tokens) - len(self.request.tokens)
        return range(first, max(first, min(start + count, end))), last_is_in and new < self.request.max_new_tokens

    def completion(self) -> Completion:
        return Completion(
            label=self.request.label,
            tokens=tuple(self.tokens[len(self.request.tokens) :]),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            prompt_logprobs=np.array(self.prompt_logprobs, dtype=np.float32),
            finish="stop" if self.stopped else "length",
            cached_tokens=self.cached_tokens or 0,
            preemptions=self.preemptions,
        )

    def _unscored(self) -> int:
        """Prompt tokens whose logprobs are asked for and not under way; they are the prompt's last ones."""
        first = self.request.logprobs_from
        return 0 if first is None else len(self.request.tokens) - first - self.scored

    def _prompt_is_in(self) -> bool:
        return self.computed >= len(self.request.tokens)
