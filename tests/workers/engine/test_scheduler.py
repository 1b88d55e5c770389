"""The scheduler without a model: tokens are made up as they are asked for, and what the cache has is written down."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.pages import PagePool
from workers.engine.prefix_cache import PrefixCache
from workers.engine.request import Request, cache_slots
from workers.engine.scheduler import Piece, Scheduler
from workers.engine.sequence import Sequence

PAGE_SIZE = 4


def next_token(tokens: list[int]) -> int:
    return sum(tokens) % 3


@dataclass
class Simulation:
    """Runs requests, and keeps for each slot the tokens up to and with the one whose latent would be in it."""

    pages: int
    chunk: int = 8
    max_running: int = 4
    prefix_cache: bool = True
    steps: list[list[tuple[str, int, int]]] = field(default_factory=list)
    slots: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = PagePool(self.pages)
        self.cache = PrefixCache(self.pool, PAGE_SIZE) if self.prefix_cache else None

    def run(self, requests: list[Request]) -> list[Sequence]:
        sequences = [Sequence(request, place, PAGE_SIZE) for place, request in enumerate(requests)]
        scheduler = Scheduler(
            sequences,
            self.pool,
            self.cache,
            page_size=PAGE_SIZE,
            chunk=self.chunk,
            max_running=self.max_running,
        )
        while pieces := scheduler.next_step():
            assert len(self.steps) < 2000, "no progress"
            self.steps.append([(piece.sequence.request.label, piece.start, piece.count) for piece in pieces])
            self.check_sizes(pieces)
            for piece in pieces:
                self.compute(piece)
            self.check_contents(scheduler)
            for piece in pieces:
                scheduler.computed(piece)
                self.answer(piece)
            self.check_contents(scheduler)
            self.check_pages(scheduler)
            scheduler.retire()
        return sequences

    def compute(self, piece: Piece) -> None:
        for position in range(piece.start, piece.start + piece.count):
            page = int(piece.sequence.table[position // PAGE_SIZE])
            self.slots[page * PAGE_SIZE + position % PAGE_SIZE] = tuple(piece.sequence.tokens[: position + 1])

    def answer(self, piece: Piece) -> None:
        scoring, draws = piece.sequence.wanted_rows(piece.start, piece.count)
        assert all(piece.start <= row < piece.start + piece.count for row in scoring)
        # In place of a logprob, the position of the token that is scored.
        piece.sequence.prompt_logprobs += [row + 1 for row in scoring]
        if draws:
            piece.sequence.tokens.append(next_token(piece.sequence.tokens))

    def check_sizes(self, pieces: list[Piece]) -> None:
        assert len(pieces) <= self.max_running
        assert len({piece.sequence for piece in pieces}) == len(pieces)
        assert all(piece.count >= 1 for piece in pieces)
        decoded = sum(piece.count == piece.sequence.pending == 1 for piece in pieces)
        assert sum(piece.count for piece in pieces) <= self.chunk + decoded

    def check_contents(self, scheduler: Scheduler) -> None:
        """What every running sequence would attend to is what its own tokens give."""
        for sequence in scheduler.running:
            for position in range(sequence.computed):
                slot = int(sequence.table[position // PAGE_SIZE]) * PAGE_SIZE + position % PAGE_SIZE
                assert self.slots[slot] == tuple(sequence.tokens[: position + 1])

    def check_pages(self, scheduler: Scheduler) -> None:
        """Every page is held once for each sequence that has it and once for the tree, and not by anything else."""
        holds = [0] * self.pages
        for sequence in scheduler.running:
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


@settings(max_examples=300)
@given(
    calls=st.lists(requests(), min_size=1, max_size=3),
    spare=st.integers(0, 12),
    chunk=st.integers(1, 30),
    max_running=st.integers(1, 9),
    prefix_cache=st.booleans(),
)
def test_whatever_is_asked_every_token_comes_once_from_the_right_pages(
    calls: list[list[Request]], spare: int, chunk: int, max_running: int, prefix_cache: bool
) -> None:
    """``check_contents`` and ``check_pages`` look after every step; here, at what came out."""
    largest = max((-(-cache_slots(r) // PAGE_SIZE) for call in calls for r in call), default=1)
    simulation = Simulation(largest + spare, chunk, max_running, prefix_cache)
    for call in calls:
        for sequence in simulation.run(call):
            asked = sequence.request
            expected = list(asked.tokens)
            while len(expected) < len(asked.tokens) + asked.max_new_tokens:
                expected.append(next_token(expected))
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
    assert at == cache_slots(sequence.request)


@given(requests(), st.integers(1, 12))
def test_the_same_requests_are_scheduled_alike(asked: list[Request], chunk: int) -> None:
    runs = [Simulation(12, chunk), Simulation(12, chunk)]
    for simulation in runs:
        simulation.run(asked)
    assert runs[0].steps == runs[1].steps
    assert runs[0].slots == runs[1].slots
