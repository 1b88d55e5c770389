from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.pages import PagePool
from workers.engine.prefix_cache import Node, PrefixCache

PAGE_SIZE = 2


def fill(cache: PrefixCache, pool: PagePool, tokens: list[int]) -> list[Node]:
    """What a sequence does that computes ``tokens``: match, take pages for the rest, insert these."""
    path = cache.match(tokens, len(tokens))
    for start in range(len(path) * PAGE_SIZE, len(tokens) - PAGE_SIZE + 1, PAGE_SIZE):
        page = pool.take()
        assert page is not None
        path.append(cache.insert(path[-1] if path else cache.root, tuple(tokens[start : start + PAGE_SIZE]), page))
    return path


def let_go(pool: PagePool, path: list[Node]) -> None:
    for node in path:
        pool.release(node.page)


def test_the_longest_beginning_in_whole_pages_is_found() -> None:
    pool = PagePool(8)
    cache = PrefixCache(pool, PAGE_SIZE)
    path = fill(cache, pool, [1, 2, 3, 4, 5])
    assert [node.tokens for node in path] == [(1, 2), (3, 4)]
    assert cache.match([1, 2, 3, 9], 4) == path[:1]
    assert cache.match([1, 2, 3, 4, 9], 5) == path
    assert cache.match([9, 1, 2], 3) == []


def test_a_match_ends_at_its_limit() -> None:
    pool = PagePool(8)
    cache = PrefixCache(pool, PAGE_SIZE)
    path = fill(cache, pool, [1, 2, 3, 4])
    assert cache.match([1, 2, 3, 4], 3) == path[:1]
    assert cache.match([1, 2, 3, 4], 1) == []


def test_pages_computed_twice_become_one() -> None:
    pool = PagePool(8)
    cache = PrefixCache(pool, PAGE_SIZE)
    first = fill(cache, pool, [1, 2])
    page = pool.take()
    assert page is not None
    again = cache.insert(cache.root, (1, 2), page)
    assert again is first[0]
    assert pool.holders(page) == 0
    assert pool.holders(first[0].page) == 3


def test_what_was_used_last_goes_last() -> None:
    pool = PagePool(2)
    cache = PrefixCache(pool, PAGE_SIZE)
    for tokens in ([1, 2], [3, 4]):
        let_go(pool, fill(cache, pool, tokens))
    let_go(pool, cache.match([1, 2], 2))
    assert cache.evict()
    assert cache.match([3, 4], 2) == []
    assert len(cache.match([1, 2], 2)) == 1


def test_pages_in_use_stay_and_so_do_those_before_them() -> None:
    pool = PagePool(3)
    cache = PrefixCache(pool, PAGE_SIZE)
    in_use = fill(cache, pool, [1, 2, 3, 4])
    let_go(pool, fill(cache, pool, [5, 6]))
    assert cache.evict()
    assert not cache.evict()
    assert cache.nodes() == in_use


def test_a_flush_frees_all() -> None:
    pool = PagePool(4)
    cache = PrefixCache(pool, PAGE_SIZE)
    let_go(pool, fill(cache, pool, [1, 2, 3, 4]))
    cache.flush()
    assert pool.free == 4
    assert cache.match([1, 2], 2) == []


def test_a_flush_while_a_sequence_runs_is_refused() -> None:
    pool = PagePool(4)
    cache = PrefixCache(pool, PAGE_SIZE)
    fill(cache, pool, [1, 2])
    with pytest.raises(AssertionError, match="page 0 is in use"):
        cache.flush()


@given(st.lists(st.lists(st.integers(0, 1), max_size=9), max_size=12), st.data())
def test_no_page_is_lost_or_in_two_places(prompts: list[list[int]], data: st.DataObject) -> None:
    pool = PagePool(64)
    cache = PrefixCache(pool, PAGE_SIZE)
    running: list[list[Node]] = []
    for tokens in prompts:
        path = fill(cache, pool, tokens)
        assert [token for node in path for token in node.tokens] == tokens[: len(path) * PAGE_SIZE]
        running.append(path)
        if data.draw(st.booleans()):
            let_go(pool, running.pop(data.draw(st.integers(0, len(running) - 1))))
        if data.draw(st.booleans()):
            cache.evict()
        nodes = cache.nodes()
        pages = [node.page for node in nodes]
        assert len(set(pages)) == len(pages) == 64 - pool.free
        for node in nodes:
            users = sum(node in path for path in running)
            assert pool.holders(node.page) == 1 + users
        assert all(node in nodes for path in running for node in path)
    for path in running:
        let_go(pool, path)
    cache.flush()
    assert pool.free == 64
