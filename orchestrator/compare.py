"""What changed from one run to another. Pure: two records in, differences out, the causes before the effects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from specs.job import Dtype, Part, Property
from specs.result import WORST_FIRST, Environment, Judgement, Outcome, RunRecord, Speed, Verdict
from specs.shapes import Shape
from specs.subject import Concerning, Subject


class Difference(Part):
    """A value of the spec or of the environments; None where a run does not have it."""

    path: str
    first: str | None
    second: str | None


class Finding(Part):
    """A verdict's part that can change."""

    outcome: Outcome
    total: int
    unique: int
    reason: str | None


class VerdictChange(Concerning):
    """One group whose outcome or number of distinct results is not the same; None where a run has no such group."""

    property: Property
    first: Finding | None
    second: Finding | None


class SpeedChange(Part):
    """The times of one variant, shape and dtype in both runs, in seconds."""

    variant: str
    shape: Shape
    dtype: Dtype
    stratum: str | None
    """None where the two runs' strata differ."""
    first_median: float
    second_median: float
    ratio: float
    """second / first: over 1 is slower."""
    apart: bool
    """Whether the two interquartile ranges have nothing in common, so that the change is not mere noise."""


class Comparison(Part):
    first: str
    second: str
    """Ids."""
    spec: list[Difference]
    environment: list[Difference]
    verdicts: list[VerdictChange]
    verdicts_equal: int
    speeds: list[SpeedChange]


def compare(first: RunRecord, second: RunRecord) -> Comparison:
    """Everything of `second` that is not as in `first`, and all times that both have."""
    verdicts, equal = _verdict_changes(_worst(first.judgement), _worst(second.judgement))
    return Comparison(
        first=first.id,
        second=second.id,
        spec=_differences(_flat(first.job.model_dump(mode="json")), _flat(second.job.model_dump(mode="json"))),
        environment=_differences(_together(first.environments), _together(second.environments)),
        verdicts=verdicts,
        verdicts_equal=equal,
        speeds=_speed_changes(first.judgement, second.judgement),
    )


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Leaves by their path, such as `variants[1].name`."""
    if isinstance(value, dict) and value:
        parts = [_flat(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, list) and value:
        parts = [_flat(item, f"{path}[{place}]") for place, item in enumerate(value)]
    else:
        return {path: str(value)}
    return {key: leaf for part in parts for key, leaf in part.items()}


def _together(environments: Iterable[Environment]) -> dict[str, str]:
    """What the workers of a run had; where they differ, all values in order."""
    seen: dict[str, set[str]] = {}
    for environment in environments:
        for path, value in _flat(environment.model_dump(mode="json")).items():
            seen.setdefault(path, set()).add(value)
    return {path: ", ".join(sorted(values)) for path, values in seen.items()}


def _differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[Difference]:
    paths = dict.fromkeys([*first, *second])
    return [
        Difference(path=path, first=first.get(path), second=second.get(path))
        for path in paths
        if first.get(path) != second.get(path)
    ]


_GroupKey = tuple[str, Subject, Dtype, Property]


def _worst(judgement: Judgement | None) -> dict[_GroupKey, Verdict]:
    """One verdict a group. Strata name drivers and builds, which may be just what differs between the runs."""
    found: dict[_GroupKey, Verdict] = {}
    for verdict in judgement.verdicts if judgement else ():
        key = (verdict.variant, verdict.subject, verdict.dtype, verdict.property)
        found[key] = min(found.get(key, verdict), verdict, key=lambda v: (WORST_FIRST.index(v.outcome), -v.unique))
    return found


def _verdict_changes(
    first: Mapping[_GroupKey, Verdict], second: Mapping[_GroupKey, Verdict]
) -> tuple[list[VerdictChange], int]:
    """The changes, and how many groups are equal."""
    changes, equal = [], 0
    for key in dict.fromkeys([*first, *second]):
        one, other = first.get(key), second.get(key)
        if one and other and (one.outcome, one.unique) == (other.outcome, other.unique):
            equal += 1
            continue
        variant, subject, dtype, prop = key
        changes.append(
            VerdictChange(
                variant=variant,
                subject=subject,
                dtype=dtype,
                property=prop,
                first=_finding(one),
                second=_finding(other),
            )
        )
    return changes, equal


def _finding(verdict: Verdict | None) -> Finding | None:
    if verdict is None:
        return None
    return Finding(outcome=verdict.outcome, total=verdict.total, unique=verdict.unique, reason=verdict.reason)


_SpeedKey = tuple[str, Shape, Dtype]


def _speed_changes(first: Judgement | None, second: Judgement | None) -> list[SpeedChange]:
    before, after = _by_target(first), _by_target(second)
    return [
        _speed_change(one, other, stratum)
        for key in before
        if key in after
        for one, other, stratum in _pairs(before[key], after[key])
    ]


def _by_target(judgement: Judgement | None) -> dict[_SpeedKey, dict[str, Speed]]:
    found: dict[_SpeedKey, dict[str, Speed]] = {}
    for speed in judgement.speeds if judgement else ():
        found.setdefault((speed.variant, speed.shape, speed.dtype), {})[speed.stratum] = speed
    return found


def _pairs(before: dict[str, Speed], after: dict[str, Speed]) -> list[tuple[Speed, Speed, str | None]]:
    """Times of equal strata; where both runs have a single one, these two, whatever they are."""
    if len(before) == len(after) == 1:
        ((stratum, one),), ((name, other),) = before.items(), after.items()
        return [(one, other, stratum if stratum == name else None)]
    return [(before[stratum], after[stratum], stratum) for stratum in before if stratum in after]


def _speed_change(one: Speed, other: Speed, stratum: str | None) -> SpeedChange:
    a, b = one.timing, other.timing
    return SpeedChange(
        variant=one.variant,
        shape=one.shape,
        dtype=one.dtype,
        stratum=stratum,
        first_median=a.median,
        second_median=b.median,
        ratio=b.median / a.median if a.median else float("nan"),
        apart=a.q3 < b.q1 or b.q3 < a.q1,
    )
