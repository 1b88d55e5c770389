"""How fast the targets of a model job generated, and what determinism cost them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specs.job import Mode
from specs.model_job import ModelJob
from specs.result import Generation, Outcome, Throughput, UnitResult, Verdict
from specs.subject import Prompt
from specs.unit import ModelUnit, Plan


def throughputs(plan: Plan, results: Sequence[UnitResult], verdicts: Sequence[Verdict]) -> list[Throughput]:
    """One for each target, mode and stratum with results; none of a kernel job."""
    found: dict[tuple[ModelUnit, str], list[Generation]] = {}
    firsts: dict[tuple[str, Mode], ModelUnit] = {}
    for result in results:
        unit = plan.units[result.unit]
        if isinstance(unit, ModelUnit) and result.generation is not None:
            first = firsts.setdefault((unit.variant, unit.mode), unit)
            found.setdefault((first, result.environment.stratum), []).append(result.generation)
    made = [_sum(unit, stratum, generations) for (unit, stratum), generations in found.items()]
    flipping = {
        (verdict.variant, verdict.subject.mode)
        for verdict in verdicts
        if isinstance(verdict.subject, Prompt) and verdict.outcome is Outcome.NONDETERMINISTIC
    }
    ranks = {target.name: target.tp for target in plan.job.targets} if isinstance(plan.job, ModelJob) else {}
    return [
        _with_cost(one, [other for other in made if ranks[other.variant] == ranks[one.variant]], flipping)
        for one in made
    ]


def _sum(unit: ModelUnit, stratum: str, generations: Iterable[Generation]) -> Throughput:
    parts = list(generations)
    new_tokens, seconds = sum(part.new_tokens for part in parts), sum(part.seconds for part in parts)
    return Throughput(
        variant=unit.variant,
        mode=unit.mode,
        dtype=unit.dtype,
        stratum=stratum,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        new_tokens=new_tokens,
        seconds=seconds,
        tokens_per_second=new_tokens / seconds if seconds else 0.0,
        cost=None,
    )


def _with_cost(one: Throughput, on_as_many: Sequence[Throughput], flipping: set[tuple[str, Mode]]) -> Throughput:
    """``on_as_many``: all that ran on the same number of ranks."""
    if (one.variant, one.mode) in flipping or not one.tokens_per_second:
        return one
    rivals = [
        other.tokens_per_second
        for other in on_as_many
        if (other.variant, other.mode) in flipping and (other.mode, other.stratum) == (one.mode, one.stratum)
    ]
    return one.model_copy(update={"cost": max(rivals) / one.tokens_per_second}) if rivals else one
