"""What traces add to a judgement: where each group parted, and which implementations ran. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from specs.result import Coverage, Divergence, UnitResult
from specs.unit import Group


def divergences(results: Sequence[UnitResult]) -> dict[tuple[Group, str], Divergence]:
    """Of each group and stratum the one of its first unit; those with equal inputs and their tensors kept go first."""
    found: dict[tuple[Group, str], Divergence] = {}
    for result in sorted(results, key=lambda result: result.unit):
        for one in result.divergences:
            key = Group(one.variant, one.subject, one.dtype, one.property), result.environment.stratum
            found[key] = max(found.get(key, one), one, key=_worth)
    return found


def coverage(results: Sequence[UnitResult]) -> list[Coverage]:
    """Of all units together, in order of first appearance."""
    found: dict[tuple[str, str, str], Coverage] = {}
    for result in sorted(results, key=lambda result: result.unit):
        for one in result.coverage:
            key = one.variant, one.kind, one.implementation
            before = found.get(key)
            count = one.operations + (before.operations if before else 0)
            found[key] = one.model_copy(update={"operations": count})
    return list(found.values())


def _worth(one: Divergence) -> tuple[bool, bool]:
    return one.inputs_equal, one.artefact is not None
