"""Which implementations really ran, and which of them have no place in a run that is to be deterministic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from specs.job import OWN_VARIANTS
from specs.result import Coverage
from workers.gemm.grouped import IMPLEMENTATION as GROUPED
from workers.trace.trace import Trace

FIXED = frozenset({"farm:invariant", GROUPED, "farm:persistent", "farm:logprobs"})
"""Of the farm's own: rows and runs have the same bits in every batch."""
MADE_TO_BE_FIXED = ("fixed:", "triton:", "symmetric_memory:", "all_gather+")
"""What the implementations of ``workers.model`` for deterministic runs are called."""
ELEMENTWISE = frozenset({"torch", "torch.add", "none:all_reduce", "all_gather"})
"""PyTorch's own that leave no choice: they move data, or compute element by element."""


def covered(target: str, ranks: Sequence[Trace], *, deterministic: bool) -> list[Coverage]:
    """Of a trace of all ranks, each implementation of each kind of operation, in order of first appearance."""
    counts: Counter[tuple[str, str]] = Counter()
    for trace in ranks:
        for step in trace.steps:
            counts.update((op.kind, op.implementation) for op in step.ops)
    return [
        Coverage(
            variant=target,
            kind=kind,
            implementation=implementation,
            operations=count,
            outside=deterministic and not is_fixed(implementation),
        )
        for (kind, implementation), count in counts.items()
    ]


def is_fixed(implementation: str) -> bool:
    """Whether a row's bits depend on that row alone. Of a peer's GEMM nobody knows."""
    if implementation.removeprefix("farm:") in OWN_VARIANTS:
        return implementation in FIXED
    return implementation in FIXED | ELEMENTWISE or implementation.startswith(MADE_TO_BE_FIXED)
