"""How a model computes: types, the GEMM under test, and whether every row's bits are its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specs.errors import UsageError


@dataclass(frozen=True)
class Numerics:
    """``gemm`` is the variant that runs block-FP8 linears, or None: then weights are dequantised to ``dtype``.

    ``dtype``, bfloat16 or float32, is that of activations, the cache, and what ranks send each other.
    ``deterministic``: a row's bits don't depend on what else is in the step. It needs a GEMM of which that is true.
    ``tp_granularity``: see ``workers.model.sharding``; above 1, up to as many ranks give equal bits where ``gemm`` and
    the collective (``ordered`` or ``tree``) let them.
    """

    gemm: str | None
    dtype: torch.dtype
    deterministic: bool
    tp_granularity: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in (torch.bfloat16, torch.float32):
            raise UsageError(f"dtype is {self.dtype}; allowed are torch.bfloat16 and torch.float32")
