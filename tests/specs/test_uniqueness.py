from __future__ import annotations

import re
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.job import Dtype, Property
from specs.shapes import Shape
from specs.uniqueness import Cell, CellRecord, Sighting, UniquenessTable
from specs.unit import Group

GROUPS = [Group(name, Shape(1, 128, 8), Dtype.BF16, Property.RUN_TO_RUN) for name in ("a", "b")]

samples = st.lists(
    st.tuples(
        st.sampled_from(GROUPS),
        st.sampled_from(["H200", "H100"]),
        st.integers(0, 3),
        st.binary(min_size=16, max_size=16) | st.sampled_from([b"x" * 16, b"y" * 16]),
        st.integers(0, 9),
    )
)


def table_of(observations: list[tuple[Group, str, int, bytes, int]]) -> UniquenessTable:
    table = UniquenessTable()
    for group, stratum, item, digest, trial in observations:
        cell = table.cell(group, stratum)
        cell.trials += 1
        cell.add(digest, Sighting(trial, "quiet", 0, 1, "node"), item)
    return table


def contents(table: UniquenessTable) -> dict[object, object]:
    return {(group, stratum): (cell.trials, cell.items) for group, stratum, cell in table}


def merged(*tables: UniquenessTable) -> UniquenessTable:
    whole = UniquenessTable()
    for table in tables:
        whole.merge(table)
    return whole


@given(samples, samples, samples)
def test_merging_is_associative_and_commutative(
    one: list[tuple[Group, str, int, bytes, int]],
    two: list[tuple[Group, str, int, bytes, int]],
    three: list[tuple[Group, str, int, bytes, int]],
) -> None:
    a, b, c = table_of(one), table_of(two), table_of(three)
    together = contents(table_of(one + two + three))
    assert contents(merged(merged(a, b), c)) == together
    assert contents(merged(a, merged(b, c))) == together
    assert contents(merged(c, b, a)) == together


@given(samples)
def test_a_table_survives_being_stored(observations: list[tuple[Group, str, int, bytes, int]]) -> None:
    table = table_of(observations)
    stored = [CellRecord.model_validate_json(record.model_dump_json()) for record in table.records()]
    assert contents(UniquenessTable.from_records(stored)) == contents(table)


def test_memory_grows_with_digests_not_with_samples() -> None:
    cell = Cell()
    for trial in range(10_000):
        cell.add(bytes([trial % 3]) * 16, Sighting(trial, "quiet", 0, 1, "node"))
    assert (cell.total, cell.unique, cell.flips) == (10_000, 3, 6666)
    assert sum(len(tallies) for tallies in cell.items.values()) == 3


def test_unique_is_that_of_the_worst_item_and_pairs_come_in_order_of_sighting() -> None:
    cell = Cell()
    sightings = [(0, b"a", 0), (1, b"a", 0), (1, b"b", 5), (0, b"c", 7), (0, b"d", 6), (2, b"a", 1)]
    for item, digest, trial in sightings:
        cell.add(digest * 16, Sighting(trial, "quiet", 0, 1, "node"), item)
    assert cell.unique == 3
    assert cell.pairs() == [(1, b"a" * 16, b"b" * 16), (0, b"a" * 16, b"d" * 16), (0, b"a" * 16, b"c" * 16)]


SEED_LOGS = """
Total samples: 50, Unique samples: 3
Prompt 1: total samples: 424, Unique samples: 6
Prompt 2: total samples: 629, Unique samples: 6
Long prompt: total samples: 222, Unique samples: 14
Prompt 1: total samples: 559, Unique samples: 4
Long prompt: total samples: 207, Unique samples: 3
Prompt 0 with prefix length 1: total samples: 310, Unique samples: 7
"""


@pytest.mark.parametrize("line", SEED_LOGS.strip().splitlines())
def test_the_seeds_logs_give_its_totals_and_uniques(line: str) -> None:
    """sgl-project/sglang#11491. Its samples are rebuilt from the counts: each result once, the rest as the first."""
    total, unique = map(int, re.findall(r"(?i)samples: (\d+)", line))
    digests = [value.to_bytes(16, "big") for value in range(unique)] + [bytes(16)] * (total - unique)
    halves, trials = [Cell(), Cell()], count()
    for digest in digests:
        trial = next(trials)
        halves[trial % 2].add(digest, Sighting(trial, "quiet", 0, 1, "node"))
    halves[0].merge(halves[1])
    assert f"otal samples: {halves[0].total}, Unique samples: {halves[0].unique}" in line
