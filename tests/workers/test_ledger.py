from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from specs.uniqueness import Cell
from tests.orchestrator.builders import environment, unit
from workers.ledger import Ledger


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 100))
def test_runs_of_trials_are_counted_as_each_by_itself(results: list[int], first: int) -> None:
    together, alone = Cell(), Cell()
    digests = np.array([[number, 7] for number in results], dtype=np.int64)
    Ledger(unit(3), 1, environment(), together, frozenset()).repeats(digests, first)
    one_by_one = Ledger(unit(3), 1, environment(), alone, frozenset())
    for trial, words in enumerate(digests, start=first):
        one_by_one.begin_trial()
        one_by_one.count(words.tobytes(), trial)
    assert (together.trials, together.items) == (alone.trials, alone.items)
