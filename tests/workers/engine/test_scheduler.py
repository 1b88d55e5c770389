"""The scheduler without a model: tokens are made up as they are asked for, and what the cache has is written down."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.overlap import run_overlapped
from workers.engine.packing import LogitRows, pack
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import PrefixCache
from workers.engine.request import Request, cache_slots
from workers.engine.sampling import put_sampled
from workers.engine.scheduler import Piece, Scheduler
from workers.engine.sequence import Sequence
from workers.model.step import Step

PAGE_SIZE = 4


STOP = 2


def next_token(tokens: Iterable[int]) -> int:
    return sum(tokens) % 3


@dataclass(frozen=True)
class Found:
    """``workers.engine.overlap.Pass``: in place of a logprob, how many tokens are behind the row."""

    rows: list[LogitRows]
    pairs: list[tuple[int, int]]

    def found(self) -> list[tuple[int, int]]:
        return self.pairs


@dataclass
class Simulation:
    """Runs requests, and keeps in each slot the tokens up to and with the one whose latent would be in it.

    A token's are found as attention finds latents: by the pages of those before it.
    """

    pages: int
    chunk: int = 8
    max_running: int = 4
    prefix_cache: bool = True
    stop_tokens: frozenset[int] = frozenset()
    steps: list[list[tuple[str, int, int]]] = field(default_factory=list)
    slots: dict[int, tuple[int, ...]] = field(default_factory=dict)
    sampled: torch.Tensor = field(default_factory=lambda: torch.zeros(100, 2, dtype=torch.float64))

    def __post_init__(self) -> None:
        self.pool = PagePool(self.pages)
        self.cache = PrefixCache(self.pool, PAGE_SIZE) if self.prefix_cache else None

    def run(self, requests: list[Request]) -> list[Sequence]:
        sequences = [Sequence(request, place, PAGE_SIZE) for place, request in enumerate(requests)]
        self.scheduler = Scheduler(
            sequences,
            self.pool,
            self.cache,
            page_size=PAGE_SIZE,
            chunk=self.chunk,
            max_running=self.max_running,
        )
        run_overlapped(self.scheduler, self.begin, self.stop_tokens)
        self.check_pages()
        return sequences

    def begin(self, pieces: list[Piece]) -> Found:
        assert len(self.steps) < 2000, "no progress"
        self.steps.append([(piece.sequence.request.label, piece.start, piece.count) for piece in pieces])
        self.check_sizes(pieces)
        self.check_contents()
        self.check_pages()
        packed = pack(pieces, PAGE_SIZE, pinned=False)
        step, asked = packed.layout.cut(packed.words)
        put_sampled(step.tokens, self.sampled)
        behind = self.compute(step)
        pairs = [
            (next_token(behind[row]) if token < 0 else token, len(behind[row]))
            for row, token in zip(step.logit_rows.tolist(), asked.given.tolist(), strict=True)
        ]
        self.sampled[: len(pairs)] = torch.tensor(pairs, dtype=torch.float64).view(-1, 2)
        return Found(packed.rows, pairs)

    def compute(self, step: Step) -> list[tuple[int, ...]]:
        """Of each token, those up to and with it."""
        behind = []
        rows = zip(step.tokens.tolist(), step.positions.tolist(), step.slots.tolist(), strict=True)
        for row, (token, position, slot) in enumerate(rows):
            pages = step.page_tables[bisect_right(step.starts, row) - 1].tolist()
            before = pages[(position - 1) // PAGE_SIZE] * PAGE_SIZE + (position - 1) % PAGE_SIZE
            assert slot == pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE
            self.slots[slot] = (*(self.slots[before] if position else ()), token)
            behind.append(self.slots[slot])
        return behind

    def check_sizes(self, pieces: list[Piece]) -> None:
        assert len(pieces) <= self.max_running
        assert len({piece.sequence for piece in pieces}) == len(pieces)
        assert all(piece.count >= 1 for piece in pieces)
        decoded = sum(piece.count == piece.sequence.pending == 1 for piece in pieces)
        assert sum(piece.count for piece in pieces) <= self.chunk + decoded

    def check_contents(self) -> None:
        """What every running sequence would attend to is what its own tokens give."""
        for sequence in self.scheduler.running:
            for position in range(sequence.computed):
                slot = int(sequence.table[position // PAGE_SIZE]) * PAGE_SIZE + position % PAGE_SIZE
                assert self.slots[slot] == tuple(sequence.tokens[: position + 1])

    def check_pages(self) -> None:
        """Every page is held once for each sequence that has it and once for the tree, and not by anything else."""
        holds = [0] * self.pages
        for sequence in self.scheduler.running:
            for page in sequence.table[: sequence.held].tolist():
                holds[page] += 1
        for node in self.cache.nodes() if self.cache else []:
            holds[node.page] += 1
        assert [self.pool.holders(page) for page in range(self.pages)] == holds


def request(label: str, prompt: int, new: int = 3, *, arrives: int = 0, logprobs_from: int | None = None) -> Request:
    return Request(tuple(range(prompt)), label, new, logprobs_from=logprobs_from, arrives_at_step=arrives)


def test_a_long_prompt_comes_in_chunks_beside_what_decodes() -> None:
    simulation = Simulation(pages=20, prefix_cache=False)
    simulation.run([request("short", 3), request("long", 15, new=1)])
    assert simulation.steps == [
        [("short", 0, 3), ("long", 0, 5)],
        [("short", 3, 1), ("long", 5, 8)],
        [("short", 4, 1), ("long", 13, 2)],
    ]


def test_a_request_joins_at_its_step_and_idle_steps_are_skipped() -> None:
    simulation = Simulation(pages=20, prefix_cache=False)
    simulation.run([request("late", 1, new=1, arrives=50), request("second", 1, arrives=1), request("first", 1)])
    assert simulation.steps == [
        [("first", 0, 1)],
        [("first", 1, 1), ("second", 0, 1)],
        [("first", 2, 1), ("second", 1, 1)],
        [("second", 2, 1)],
        [("late", 0, 1)],
    ]


def test_the_youngest_gives_its_pages_and_is_computed_again_later() -> None:
    simulation = Simulation(pages=4, prefix_cache=False)
    old, young = simulation.run([request("old", 4, new=9), request("young", 4, new=6)])
    assert (old.preemptions, young.preemptions) == (0, 1)
    # Both have 2 full pages when the older one needs a third. The younger one is computed again, 8 tokens a step.
    assert simulation.steps[4] == [("old", 7, 1), ("young", 7, 1)]
    assert simulation.steps[5:9] == [[("old", position, 1)] for position in (8, 9, 10, 11)]
    assert simulation.steps[9:] == [[("young", 0, 8)], [("young", 8, 1)]]
    assert len(young.tokens) == 10


def test_who_was_put_off_comes_back_once_all_of_it_fits() -> None:
    simulation = Simulation(pages=6, prefix_cache=False)
    old, young = simulation.run([request("old", 4, new=13), request("young", 16, new=5)])
    # It wants a fifth page while the older one has two; a chunk of two pages would fit at once, and not help.
    assert (old.preemptions, young.preemptions) == (0, 1)
    old_ends = simulation.steps.index([("old", 15, 1)])
    assert simulation.steps[old_ends + 1] == [("young", 0, 8)]


def test_a_stop_token_is_known_a_pass_late_and_nothing_comes_after_it() -> None:
    simulation = Simulation(pages=20, stop_tokens=frozenset({STOP}))
    stopping, other = simulation.run([Request((1, 1), "stopping", 9), request("other", 3, new=4)])
    assert (stopping.tokens, stopping.stopped, other.stopped) == ([1, 1, STOP], True, False)
    assert simulation.steps == [
        [("stopping", 0, 2), ("other", 0, 3)],
        [("stopping", 2, 1), ("other", 3, 1)],
        [("other", 4, 1)],
        [("other", 5, 1)],
    ]


def test_who_is_put_off_at_its_stop_token_does_not_come_back() -> None:
    simulation = Simulation(pages=3, prefix_cache=False, stop_tokens=frozenset({STOP}))
    old, young = simulation.run([request("old", 3, new=6), Request((1, 0, 0, 0, 0), "young", 4)])
    assert young.tokens == [1, 0, 0, 0, 0, 1, STOP]
    assert (young.preemptions, old.preemptions) == (1, 0)
    assert simulation.steps[1:3] == [[("old", 3, 1), ("young", 5, 1)], [("old", 4, 1)]]
    assert simulation.steps[3:] == [[("old", position, 1)] for position in (5, 6, 7)]


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_who_comes_late_is_not_forgotten_behind_one_that_had_ended(prefix_cache: bool) -> None:
    simulation = Simulation(pages=2, prefix_cache=prefix_cache, stop_tokens=frozenset([STOP]))
    asked = [request("old", 1), Request((1, 0, 0), "young", 6), request("late", 2, new=2, arrives=20)]
    _, young, late = simulation.run(asked)
    assert young.preemptions and young.tokens[-1] == STOP
    assert len(late.tokens) > 2


def test_an_equal_prompt_is_taken_from_the_cache_but_for_what_its_last_token_needs() -> None:
    simulation = Simulation(pages=20)
    simulation.run([request("a", 8)])
    simulation.run([request("b", 8)])
    assert simulation.steps[-3:] == [[("b", 4, 4)], [("b", 8, 1)], [("b", 9, 1)]]


def test_scored_tokens_are_computed_even_where_they_are_cached() -> None:
    simulation = Simulation(pages=20)
    simulation.run([request("a", 12)])
    (scored,) = simulation.run([request("b", 12, new=0, logprobs_from=6)])
    assert simulation.steps[-1] == [("b", 4, 8)]
    assert scored.prompt_logprobs == [6, 7, 8, 9, 10, 11]
    assert scored.cached_tokens == 4


def test_no_request_asks_for_no_step() -> None:
    simulation = Simulation(pages=1)
    assert simulation.run([]) == []
    assert simulation.steps == []


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=24)


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    found = []
    for index, prompt in enumerate(draw(st.lists(PROMPTS, max_size=9))):
        found.append(
            Request(
                tuple(prompt),
                str(index),
                draw(st.integers(0, 12)),
                logprobs_from=draw(st.none() | st.integers(1, len(prompt))),
                arrives_at_step=draw(st.integers(0, 12)),
            )
        )
    return found


@settings(max_examples=150)
@given(
    calls=st.lists(requests(), min_size=1, max_size=3),
    spare=st.integers(0, 12),
    chunk=st.integers(1, 30),
    max_running=st.integers(1, 9),
    prefix_cache=st.booleans(),
    stop_tokens=st.sampled_from([frozenset[int](), frozenset({STOP})]),
)
def test_whatever_is_asked_every_token_comes_once_from_the_right_pages(
    calls: list[list[Request]],
    spare: int,
    chunk: int,
    max_running: int,
    prefix_cache: bool,
    stop_tokens: frozenset[int],
) -> None:
    """``check_contents`` and ``check_pages`` look before every step; here, at what came out."""
    largest = max((-(-cache_slots(r) // PAGE_SIZE) for call in calls for r in call), default=1)
    simulation = Simulation(largest + spare, chunk, max_running, prefix_cache, stop_tokens)
    for call in calls:
        for sequence in simulation.run(call):
            asked = sequence.request
            expected = list(asked.tokens)
            while len(expected) < len(asked.tokens) + asked.max_new_tokens:
                expected.append(next_token(expected))
                if expected[-1] in stop_tokens:
                    break
            assert sequence.tokens == expected
            first = asked.logprobs_from
            assert sequence.prompt_logprobs == ([] if first is None else list(range(first, len(asked.tokens))))
            if not prefix_cache:
                check_computed_once(simulation, sequence)
        simulation.steps.clear()
    if simulation.cache:
        simulation.cache.flush()
    assert simulation.pool.free == simulation.pages


def check_computed_once(simulation: Simulation, sequence: Sequence) -> None:
    """Tokens of a sequence are computed in order and without a gap; from the start again after each preemption."""
    own = [
        (start, count) for step in simulation.steps for label, start, count in step if label == sequence.request.label
    ]
    at, restarts = 0, 0
    for start, count in own:
        if start == 0 and at > 0:
            at, restarts = 0, restarts + 1
        assert start == at
        at += count
    assert restarts <= sequence.preemptions
    # The last token is not computed, but for a stop token that the host did not know yet.
    least = max(len(sequence.tokens) - 1, len(sequence.request.tokens))
    assert least <= at <= least + sequence.stopped


@given(requests(), st.integers(1, 12))
def test_the_same_requests_are_scheduled_alike(asked: list[Request], chunk: int) -> None:
    runs = [Simulation(12, chunk), Simulation(12, chunk)]
    for simulation in runs:
        simulation.run(asked)
    assert runs[0].steps == runs[1].steps
    assert runs[0].slots == runs[1].slots
