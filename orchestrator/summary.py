"""A run in four numbers: what its JSON leads with."""

from __future__ import annotations

from typing import TypedDict

from specs.job import Expectation, Property
from specs.result import Judgement, Outcome

COMPARED_WITH_OTHERS = (Property.BATCH_INVARIANCE, Property.SM_COUNT, Property.CROSS_DEVICE)


class Summary(TypedDict):
    launches: int
    """Of variants that are expected to be deterministic."""
    unique_max: int
    """Most distinct results of any of their groups."""
    invariance_bits_differing: int
    """Of their samples at other batch sizes, SM counts or devices, those whose bits differed."""
    control_unique_min: int | None
    """Fewest distinct results of any control on a shape that is required; None where there is no control."""


def summarise(judgement: Judgement) -> Summary:
    """Groups that could not be run count nowhere."""
    ran = [v for v in judgement.verdicts if v.outcome not in (Outcome.UNSUPPORTED, Outcome.ERROR)]
    tested = [verdict for verdict in ran if verdict.expected is Expectation.DETERMINISTIC]
    controls = [verdict for verdict in ran if verdict.expected is Expectation.NONDETERMINISTIC and verdict.required]
    return Summary(
        launches=sum(verdict.trials for verdict in tested),
        unique_max=max((verdict.unique for verdict in tested), default=0),
        invariance_bits_differing=sum(v.flips for v in tested if v.property in COMPARED_WITH_OTHERS),
        control_unique_min=min((verdict.unique for verdict in controls), default=None),
    )
