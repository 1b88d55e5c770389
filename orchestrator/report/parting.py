"""Where two answers parted, and what ran, in the words of every report."""

from __future__ import annotations

from collections.abc import Sequence

from specs.result import Coverage, Divergence


def divergence_words(one: Divergence) -> str:
    """`at OP (KIND by IMPLEMENTATION, ..) on rank R, ..: how its output differs`"""
    shapes = "" if one.gemm_shapes is None else f", (m, n, k) = {_both(one.gemm_shapes)}"
    labels = _both([f"{label!r}" for label in one.labels])
    where = (
        f"at {one.op} ({one.kind} by {one.implementation}{shapes}) on rank {one.rank}, step {_both(one.steps)}, "
        f"token {one.position} of {labels} in batch {_both(one.trials)}"
    )
    after = f"what is sampled differs from token {one.sampled_at} on"
    return f"{where}: {_cause(one)}; {_row_words(one)}; {after}"


def coverage_words(one: Coverage) -> str:
    plural = "" if one.operations == 1 else "s"
    return (
        f"{one.kind} ran as {one.implementation} ({one.operations} operation{plural} in the batches that were traced)"
    )


def coverage_lines(found: Sequence[Coverage]) -> dict[str, list[str]]:
    """Of each target, what ran, one line for each kind of operation and implementation."""
    lines: dict[str, list[str]] = {}
    for one in found:
        lines.setdefault(one.variant, []).append(coverage_words(one))
    return lines


def _cause(one: Divergence) -> str:
    if not one.inputs_equal:
        return "an input that nothing traced had made differed, so the fault lies before it"
    return "its inputs were equal" if one.weights_equal else "its inputs were equal, its weights were not"


def _row_words(one: Divergence) -> str:
    row = one.row
    if row is None:
        return "it did not part again when its tensors were to be kept"
    apart = "" if row.max_ulp is None else f", at most {row.max_ulp} ULP apart"
    (first, second), (first_bits, second_bits) = row.values, row.bits
    return (
        f"{row.differing} of {row.elements} numbers of the row differ{apart}, the first at {row.coordinates}: "
        f"{first} ({first_bits}) and {second} ({second_bits})"
    )


def _both(pair: Sequence[object]) -> str:
    first, second = pair
    return str(first) if first == second else f"{first} and {second}"
