"""Which tokens of which sequences go into the next forward pass.

As real servers do: every sequence that decodes gives its one token, and prompts fill what is left, ``chunk`` tokens a
step, oldest first. Requests are admitted in the order in which they came, when there are pages for the whole prompt.
A sequence that later needs a page when none is free takes it from the prefix cache, or else from the youngest
sequence, which is put off and computed again later. The oldest is never put off, so there is always progress.

What comes out depends on the requests, on what the prefix cache had before, and on where stop tokens fell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from workers.engine.pages import PagePool
from workers.engine.prefix_cache import PrefixCache
from workers.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens start .. start + count - 1 of a sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    count: int


class Scheduler:
    """One call's sequences. ``prefix_cache`` None: nothing is shared."""

    def __init__(
        self,
        sequences: Iterable[Sequence],
        pool: PagePool,
        prefix_cache: PrefixCache | None,
        *,
        page_size: int,
        chunk: int,
        max_running: int,
    ) -> None:
        in_order = sorted(sequences, key=lambda sequence: (sequence.request.arrives_at_step, sequence.place))
        self.waiting = deque(in_order)
        self.running: list[Sequence] = []
        """Oldest first: in the order of admission, which is the order of arrival."""
        self.steps = 0
        self._pool, self._prefix_cache = pool, prefix_cache
        self._page_size, self._chunk, self._max_running = page_size, chunk, max_running

    def next_step(self) -> list[Piece]:
        """What to compute now, oldest sequence first; empty once every sequence is finished."""
        if not self.running and (first := self._next_waiting()) is not None:
            self.steps = max(self.steps, first.request.arrives_at_step)
        pieces, budget = self._continue_running()
        pieces += self._admit(budget)
        self.steps += 1
        return pieces

    def computed(self, piece: Piece) -> None:
        """The piece's latents are in the cache."""
        sequence = piece.sequence
        sequence.computed += piece.count
        if self._prefix_cache is None:
            return
        for index in range(len(sequence.path), sequence.computed // self._page_size):
            parent = sequence.path[-1] if sequence.path else self._prefix_cache.root
            tokens = tuple(sequence.tokens[index * self._page_size : (index + 1) * self._page_size])
            node = self._prefix_cache.insert(parent, tokens, int(sequence.table[index]))
            sequence.path.append(node)
            sequence.table[index] = node.page

    def retire(self) -> None:
        """Let go of what has finished."""
        going_on = []
        for sequence in self.running:
            if sequence.finished:
                self._release(sequence)
            else:
                going_on.append(sequence)
        self.running = going_on

    def abandon(self) -> None:
        """Let go of every sequence: the call failed."""
        for sequence in self.running:
            self._release(sequence)
        self.running.clear()
        self.waiting.clear()

    def _continue_running(self) -> tuple[list[Piece], int]:
        pieces, budget = [], self._chunk
        # By index: the list may lose its last ones on the way.
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            decodes = sequence.pending == 1
            count = 1 if decodes else min(sequence.pending, budget)
            if count and self._provide(sequence, count, may_put_off=True):
                pieces.append(Piece(sequence, sequence.computed, count))
                budget -= 0 if decodes else count
            index += 1
        return pieces, budget

    def _admit(self, budget: int) -> list[Piece]:
        pieces = []
        while budget and len(self.running) < self._max_running and (sequence := self._next_waiting()) is not None:
            if sequence.request.arrives_at_step > self.steps:
                break
            self._take_from_cache(sequence)
            # For all that is known of it, or whoever was put off would come straight back, and be put off again.
            if not self._provide(sequence, sequence.pending, may_put_off=False):
                self._release(sequence)
                break
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
            self.running.append(self.waiting.popleft())
            count = min(sequence.pending, budget)
            pieces.append(Piece(sequence, sequence.computed, count))
            budget -= count
        return pieces

    def _next_waiting(self) -> Sequence | None:
        """Without those that a stop token ended, of which nobody knew when they were put off."""
        while self.waiting and self.waiting[0].finished:
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def _take_from_cache(self, sequence: Sequence) -> None:
        if self._prefix_cache is None:
            return
        sequence.path = self._prefix_cache.match(sequence.tokens, sequence.may_be_cached())
        sequence.held = len(sequence.path)
        sequence.table[: sequence.held] = [node.page for node in sequence.path]
        sequence.computed = sequence.held * self._page_size

    def _provide(self, sequence: Sequence, count: int, *, may_put_off: bool) -> bool:
        """Pages for ``count`` tokens more. False where there are none, or where the sequence itself was put off."""
        needed = -(-(sequence.computed + count) // self._page_size)
        while sequence.held < needed:
            page = self._pool.take()
            if page is not None:
                sequence.table[sequence.held] = page
                sequence.held += 1
            elif self._prefix_cache is not None and self._prefix_cache.evict():
                continue
            elif not may_put_off:
                return False
            else:
                youngest = self.running.pop()
                self._release(youngest)
                youngest.preemptions += 1
                self.waiting.appendleft(youngest)
                if youngest is sequence:
                    return False
        return True

    def _release(self, sequence: Sequence) -> None:
        for page in sequence.table[: sequence.held].tolist():
            self._pool.release(page)
        sequence.held = sequence.computed = 0
        sequence.path = []
