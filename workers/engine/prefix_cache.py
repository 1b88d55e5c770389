"""What of earlier sequences is still in the latent cache: a radix tree whose digits are whole pages of token ids."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from workers.engine.pages import PagePool


class Node:
    """One page of tokens after those of ``parent``. The root has none (and page -1)."""

    __slots__ = ("children", "page", "parent", "tokens", "used")

    def __init__(self, parent: Node | None, tokens: tuple[int, ...], page: int) -> None:
        self.parent, self.tokens, self.page = parent, tokens, page
        self.children: dict[tuple[int, ...], Node] = {}
        self.used = 0
        """When it was last matched or inserted, in calls of this cache."""


class PrefixCache:
    """Holds every page in the tree once; a sequence that shares a page holds it once more.

    A sequence holds the pages of its whole path, so what ``evict`` may free is found at the leaves.
    """

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool, self._page_size = pool, page_size
        self.root = Node(None, (), -1)
        self._calls = 0

    def match(self, tokens: Sequence[int], limit: int) -> list[Node]:
        """The longest path of whole pages within ``tokens[:limit]``. Its pages are held for the caller."""
        self._calls += 1
        node, path = self.root, []
        for start in range(0, limit - self._page_size + 1, self._page_size):
            child = node.children.get(tuple(tokens[start : start + self._page_size]))
            if child is None:
                break
            self._pool.hold(child.page)
            child.used = self._calls
            path.append(child)
            node = child
        return path

    def insert(self, parent: Node, tokens: tuple[int, ...], page: int) -> Node:
        """The node of ``tokens`` after ``parent``, with ``page`` where the tree had none yet.

        Where it had one, the caller's hold moves from ``page`` to that node's page, which has the same tokens after
        the same tokens: identical prompts that were computed side by side end up with one copy.
        """
        self._calls += 1
        node = parent.children.get(tokens)
        if node is None:
            node = parent.children[tokens] = Node(parent, tokens, page)
            self._pool.hold(page)
        elif node.page != page:
            self._pool.hold(node.page)
            self._pool.release(page)
        node.used = self._calls
        return node

    def evict(self) -> bool:
        """Free the least recently used pages that no sequence holds, an eighth of them; False where there is none."""
        leaves = [(node.used, node.page, node) for node in self.nodes() if self._is_loose(node)]
        heapq.heapify(leaves)
        freed = 0
        # Not one by one: a look at the whole tree for each page would take its square.
        while leaves and freed < max(1, self._pool.pages // 8):
            _, _, node = heapq.heappop(leaves)
            parent = node.parent
            assert parent is not None
            del parent.children[node.tokens]
            self._pool.release(node.page)
            freed += 1
            if parent is not self.root and self._is_loose(parent):
                heapq.heappush(leaves, (parent.used, parent.page, parent))
        return freed > 0

    def flush(self) -> None:
        """Forget everything. No sequence may be running: its next page would go below a node that is gone."""
        for node in self.nodes():
            assert self._pool.holders(node.page) == 1, f"page {node.page} is in use"
            self._pool.release(node.page)
        self.root.children.clear()

    def nodes(self) -> list[Node]:
        """All but the root, parents first."""
        found = list(self.root.children.values())
        for node in found:
            found.extend(node.children.values())
        return found

    def _is_loose(self, node: Node) -> bool:
        return not node.children and self._pool.holders(node.page) == 1
