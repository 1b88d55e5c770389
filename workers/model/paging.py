"""From a sequence's positions to slots of the paged cache."""

from __future__ import annotations

import torch


def slots_of(page_tables: torch.Tensor, page_size: int, start: int, stop: int) -> torch.Tensor:
    """(S, stop - start) slots of positions ``start:stop``; slot 0 where a sequence has no such page."""
    positions = torch.arange(start, stop, device=page_tables.device)
    pages = positions // page_size
    inside = pages.clamp(max=page_tables.shape[1] - 1)
    found = page_tables[:, inside].long()
    slots = found * page_size + positions % page_size
    return slots.masked_fill((found < 0) | (pages != inside), 0)
