from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.pages import PagePool


def test_the_lowest_free_page_comes_first_whatever_happened_before() -> None:
    pool = PagePool(4)
    pages = [pool.take() for _ in range(4)]
    assert pages == [0, 1, 2, 3]
    assert pool.take() is None
    for page in (3, 0, 2):
        pool.release(page)
    assert [pool.take() for _ in range(3)] == [0, 2, 3]


def test_a_page_is_free_once_its_last_holder_lets_go() -> None:
    pool = PagePool(1)
    assert pool.take() == 0
    pool.hold(0)
    pool.release(0)
    assert pool.free == 0
    pool.release(0)
    assert pool.free == 1


def test_a_free_page_can_be_neither_held_nor_released() -> None:
    pool = PagePool(1)
    with pytest.raises(AssertionError, match="page 0 is free"):
        pool.hold(0)
    with pytest.raises(AssertionError, match="page 0 is free"):
        pool.release(0)


@given(st.lists(st.tuples(st.sampled_from(["take", "hold", "release"]), st.integers(0, 5)), max_size=60))
def test_pages_are_counted_as_a_list_of_holds_would_count_them(calls: list[tuple[str, int]]) -> None:
    pool, holds = PagePool(6), [0] * 6
    for call, page in calls:
        if call == "take":
            expected = holds.index(0) if 0 in holds else None
            assert pool.take() == expected
            if expected is not None:
                holds[expected] = 1
        elif holds[page]:
            (pool.hold if call == "hold" else pool.release)(page)
            holds[page] += 1 if call == "hold" else -1
        assert [pool.holders(page) for page in range(6)] == holds
        assert pool.free == holds.count(0)
