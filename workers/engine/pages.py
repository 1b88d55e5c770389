"""Pages of the latent cache: who holds which."""

from __future__ import annotations

import heapq


class PagePool:
    """``pages`` pages, each free or held by one or more holders.

    The lowest free page is taken first, so that a page's number depends on what is held and not on how it came so.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._holders = [0] * pages
        self._free = list(range(pages))

    @property
    def free(self) -> int:
        return len(self._free)

    def holders(self, page: int) -> int:
        return self._holders[page]

    def take(self) -> int | None:
        """A free page, now with one holder; None where there is none."""
        if not self._free:
            return None
        page = heapq.heappop(self._free)
        self._holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One holder more for a page that has some."""
        assert self._holders[page] > 0, f"page {page} is free"
        self._holders[page] += 1

    def release(self, page: int) -> None:
        """One holder less; the last one leaves it free."""
        assert self._holders[page] > 0, f"page {page} is free"
        self._holders[page] -= 1
        if self._holders[page] == 0:
            heapq.heappush(self._free, page)
