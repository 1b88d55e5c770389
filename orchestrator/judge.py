"""From counters to verdicts. Pure: no Ray, no database, no clock."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator.blame import coverage, divergences
from orchestrator.throughput import throughputs
from orchestrator.witness import compare_answers, compare_samples
from specs.errors import ExitCode
from specs.job import Dtype, Expectation, Property
from specs.kernel_job import KernelJob
from specs.kinds import Job
from specs.result import (
    Judgement,
    Outcome,
    Speed,
    Timing,
    UnitFailure,
    UnitResult,
    Verdict,
    Witness,
)
from specs.shapes import Shape
from specs.subject import Subject, conditions
from specs.uniqueness import Cell, Tally, UniquenessTable
from specs.unit import Group, KernelUnit, Plan, WorkUnit

LoadSample = Callable[[str], bytes | None]
"""The bytes of a witness by its digest in hex, or None where they were not kept."""

CONFIDENCE = 0.95


def judge(plan: Plan, results: Sequence[UnitResult], failures: Sequence[UnitFailure], sample: LoadSample) -> Judgement:
    """Every verdict of a run, whether its plan is finished or not.

    ``failures`` are those of units that have no result; with ``results`` they account for the units that are done.
    """
    evidence = _Evidence.gather(plan, results, failures)
    verdicts = [verdict for group in evidence.groups for verdict in _verdicts(plan.job, group, evidence, sample)]
    parted = divergences(results)
    verdicts = [verdict.model_copy(update={"divergence": parted.get(_place(verdict))}) for verdict in verdicts]
    speeds = _speeds(plan.job, evidence, verdicts) if isinstance(plan.job, KernelJob) else []
    errors = [f"{plan.units[failure.unit]}: {failure.reason}" for failure in failures]
    return Judgement(
        verdicts=verdicts,
        speeds=speeds,
        throughputs=throughputs(plan, results, verdicts),
        coverage=coverage(results),
        errors=errors,
        exit_code=_exit_code(verdicts, speeds, errors),
    )


def _place(verdict: Verdict) -> tuple[Group, str]:
    return Group(verdict.variant, verdict.subject, verdict.dtype, verdict.property), verdict.stratum


def flip_rate_bound(trials: int) -> float:
    """Exact one-sided 95 % upper bound of the flip rate after `trials` trials without a flip: p with (1-p)^n = 0.05."""
    return 1.0 - float((1.0 - CONFIDENCE) ** (1.0 / trials))


@dataclass(frozen=True)
class _Evidence:
    table: UniquenessTable
    groups: dict[Group, set[str]]
    """Every group, with the variants whose samples it compares."""
    missing: dict[Group, str]
    """Groups of which a unit has no result, with the reason."""
    unsupported: dict[Group, str]
    measured: dict[tuple[str, Shape, Dtype, str], list[UnitResult]]
    places: dict[tuple[Group, str], set[object]]
    """Of a group in a stratum, the devices, the processes or the targets that its samples came from."""

    @classmethod
    def gather(cls, plan: Plan, results: Sequence[UnitResult], failures: Sequence[UnitFailure]) -> _Evidence:
        by_unit = {result.unit: result for result in results}
        failed = {failure.unit: failure.reason for failure in failures}
        found = cls(UniquenessTable(), {}, {}, {}, {}, {})
        for unit in plan.units:
            result = by_unit.get(unit.index)
            for group in unit.groups:
                found.groups.setdefault(group, set()).add(unit.variant)
                if result is None:
                    found.missing.setdefault(group, failed.get(unit.index, "not all of its units were run"))
            if result is not None:
                found._take(unit, result)
        return found

    def _take(self, unit: WorkUnit, result: UnitResult) -> None:
        if isinstance(unit, KernelUnit) and result.measurement is not None:
            key = (unit.variant, unit.shape, unit.dtype, result.environment.stratum)
            self.measured.setdefault(key, []).append(result)
        table = UniquenessTable.from_records(result.cells)
        self.table.merge(table)
        for group, stratum, _ in table:
            self.places.setdefault((group, stratum), set()).add(_source(group.property, unit, result))
        if result.unsupported is not None:
            self.unsupported.update(dict.fromkeys(unit.groups, result.unsupported))

    def under_the_same_conditions(self, group: Group, variant: str, stratum: str) -> list[Cell]:
        """Of another variant, the cells that a group may be held against."""
        return [
            cell
            for other in self.groups
            if (other.variant, other.dtype, other.property) == (variant, group.dtype, group.property)
            and conditions(other.subject) == conditions(group.subject)
            and (cell := self.table.strata(other).get(stratum)) is not None
        ]

    def can_differ(self, subject: Subject, dtype: Dtype) -> bool:
        """False where summing the K blocks of a reference in another order changed no bit of the elements looked at."""
        seen = [
            result.measurement.reordered_elements
            for (_, measured_shape, measured_dtype, _), results in self.measured.items()
            for result in results
            if (measured_shape, measured_dtype) == (subject, dtype) and result.measurement is not None
        ]
        return not seen or max(seen) > 0


def _source(prop: Property, unit: WorkUnit, result: UnitResult) -> object:
    """What a property compares with others of its kind."""
    if prop is Property.CROSS_DEVICE:
        return result.environment.node, result.environment.device_uuid
    return unit.index if prop is Property.CROSS_PROCESS else unit.variant


def _verdicts(job: Job, group: Group, evidence: _Evidence, sample: LoadSample) -> list[Verdict]:
    unsupported = evidence.unsupported.get(group)
    strata = evidence.table.strata(group)
    if not strata and unsupported is not None:
        return [_verdict(job, group, "-", Cell(), Outcome.UNSUPPORTED, unsupported, None)]
    if not strata:
        why = evidence.missing.get(group, "it has no samples")
        return [_verdict(job, group, "-", Cell(), Outcome.ERROR, why, None)]
    verdicts = []
    for stratum, cell in strata.items():
        outcome, reason = _outcome(job, group, stratum, cell, evidence)
        witness = _witness(group, cell, sample) if outcome is Outcome.NONDETERMINISTIC else None
        verdicts.append(_verdict(job, group, stratum, cell, outcome, reason, witness))
    return verdicts


def _outcome(job: Job, group: Group, stratum: str, cell: Cell, evidence: _Evidence) -> tuple[Outcome, str | None]:
    """A flip is final; everything that could have hidden one is asked before anything is called deterministic."""
    if cell.unique > 1:
        return Outcome.NONDETERMINISTIC, None
    if group in evidence.missing:
        return Outcome.ERROR, f"no flip so far, but {evidence.missing[group]}"
    if cell.trials < 2:
        return Outcome.INCONCLUSIVE, f"{cell.trials} trial: at least 2 are needed to compare"
    if (nothing_to_compare := _one_alone(group, evidence.places[group, stratum], evidence.groups[group])) is not None:
        return Outcome.INCONCLUSIVE, nothing_to_compare
    if group in evidence.unsupported:
        return Outcome.INCONCLUSIVE, f"no flip, but some of its units could not run: {evidence.unsupported[group]}"
    if not evidence.can_differ(group.subject, group.dtype):
        return Outcome.INCONCLUSIVE, (
            "these inputs can't show a difference: summing the K blocks of a reference in another order "
            f"changes no bit of the {group.dtype} output elements looked at"
        )
    return _held_against_controls(job, group, stratum, evidence)


def _one_alone(group: Group, places: set[object], targets: set[str]) -> str | None:
    """Why the samples of one stratum were not compared across what the property is about."""
    match group.property:
        case Property.CROSS_DEVICE if len(places) < 2:
            return "there was only one device: cross_device needs at least 2"
        case Property.CROSS_PROCESS if len(places) < 2:
            return "all trials fell into one process: cross_process needs at least 2"
        case Property.TP_INVARIANCE if places != targets:
            absent = " and ".join(sorted(targets - places))
            return f"{absent} did not run on this hardware, so that there is nothing to compare with"
    return None


def _held_against_controls(job: Job, group: Group, stratum: str, evidence: _Evidence) -> tuple[Outcome, str | None]:
    expectations = job.expectations(group.property)
    controls = [name for name, expected in expectations.items() if expected is Expectation.NONDETERMINISTIC]
    if not controls:
        tested = "a variant" if isinstance(job, KernelJob) else "a target"
        return Outcome.INCONCLUSIVE, (
            f"the job has no control for {group.property}: add {tested} with expect: nondeterministic, such as streamk"
        )
    if group.variant in controls:
        trials = evidence.table.strata(group)[stratum].trials
        return Outcome.INCONCLUSIVE, f"this control did not flip in {trials} trials"
    cells = {name: evidence.under_the_same_conditions(group, name, stratum) for name in controls}
    if any(cell.unique > 1 for beside in cells.values() for cell in beside):
        return Outcome.DETERMINISTIC, None
    tried = ", ".join(
        f"{name} ({max((cell.trials for cell in beside), default=0)} trials)" for name, beside in cells.items()
    )
    return Outcome.INCONCLUSIVE, f"no control flipped under the same conditions: {tried}"


def _verdict(
    job: Job,
    group: Group,
    stratum: str,
    cell: Cell,
    outcome: Outcome,
    reason: str | None,
    witness: Witness | None,
) -> Verdict:
    pairs = cell.pairs()
    return Verdict(
        variant=group.variant,
        subject=group.subject,
        dtype=group.dtype,
        property=group.property,
        stratum=stratum,
        outcome=outcome,
        reason=reason,
        expected=job.expectations(group.property)[group.variant],
        required=job.required(group.subject),
        trials=cell.trials,
        total=cell.total,
        unique=cell.unique,
        items=len(cell.items),
        flips=cell.flips,
        first_flip=cell.items[pairs[0][0]][pairs[0][2]].first if pairs else None,
        bound=flip_rate_bound(cell.trials) if cell.trials and cell.unique == 1 else None,
        witness=witness,
    )


def _witness(group: Group, cell: Cell, sample: LoadSample) -> Witness | None:
    for item in dict.fromkeys(item for item, _, _ in cell.pairs()):
        kept = _kept(cell.items[item], sample)
        if len(kept) == 2:
            break
    else:
        return None
    (first, one), (second, other) = kept
    if isinstance(group.subject, Shape):
        difference = compare_samples(one, other, group.dtype, row_length=group.subject.n)
    else:
        difference = compare_answers(one, other)
    return Witness(
        item=item,
        first=cell.items[item][first].first,
        second=cell.items[item][second].first,
        first_digest=first.hex(),
        second_digest=second.hex(),
        **asdict(difference),
    )


def _kept(tallies: Mapping[bytes, Tally], sample: LoadSample) -> list[tuple[bytes, bytes]]:
    """Of the digests whose samples were kept, the two that were seen first, and the samples."""
    in_order = sorted(tallies, key=lambda digest: (tallies[digest].first, digest))
    kept = ((digest, found) for digest in in_order if (found := sample(digest.hex())) is not None)
    return list(itertools.islice(kept, 2))


def _speeds(job: KernelJob, evidence: _Evidence, verdicts: list[Verdict]) -> list[Speed]:
    flipping = {
        v.variant
        for v in verdicts
        if v.outcome is Outcome.NONDETERMINISTIC and v.property is not Property.BATCH_INVARIANCE
    }
    medians = {key: statistics.median(_seconds(results)) for key, results in evidence.measured.items()}
    speeds = []
    for (name, shape, dtype, stratum), results in evidence.measured.items():
        times = _seconds(results)
        rivals = [
            median
            for (rival, *where), median in medians.items()
            if rival in flipping and rival != name and where == [shape, dtype, stratum]
        ]
        measurements = [result.measurement for result in results if result.measurement is not None]
        worst = max(measurements, key=lambda one: (math.isnan(one.relative_error), one.relative_error))
        q1, _, q3 = statistics.quantiles(times, n=4, method="inclusive")
        speed = Speed(
            variant=name,
            shape=shape,
            dtype=dtype,
            stratum=stratum,
            timing=Timing(launches=len(times), median=statistics.median(times), q1=q1, q3=q3),
            relative_error=worst.relative_error,
            rounding_floor=worst.rounding_floor,
            cost=statistics.median(times) / min(rivals) if rivals and name not in flipping else None,
            failed_gates=[],
        )
        gate = job.gates.speed
        against = medians.get((gate.against, shape, dtype, stratum)) if gate else None
        speeds.append(_gated(job, speed, against))
    return speeds


def _seconds(results: list[UnitResult]) -> list[float]:
    return [second for result in results if result.measurement is not None for second in result.measurement.seconds]


def _gated(job: KernelJob, speed: Speed, against: float | None) -> Speed:
    """With the gates that failed, and those for which something is missing."""
    failed, unknown = [], []
    allowed = job.gates.accuracy
    # Written so that a NaN fails.
    if allowed is not None and not speed.relative_error <= allowed * speed.rounding_floor:
        failed.append(
            f"accuracy: relative error {speed.relative_error:.3e} is over {allowed:g} x the rounding floor "
            f"{speed.rounding_floor:.3e}"
        )
    gate = job.gates.speed
    variant = next(v for v in job.variants if v.name == speed.variant)
    if gate and variant.expectation(Property.RUN_TO_RUN) is Expectation.DETERMINISTIC:
        if against is None:
            unknown.append(f"speed: {gate.against} was not measured here, so nothing can be held against it")
        elif (ratio := against / speed.timing.median) < gate.at_least:
            failed.append(f"speed: {ratio:.3f} x {gate.against}, at least {gate.at_least:g} is wanted")
    return speed.model_copy(update={"failed_gates": failed, "open_gates": unknown})


def _exit_code(verdicts: list[Verdict], speeds: list[Speed], errors: list[str]) -> ExitCode:
    """An expectation that failed outranks a failure of the farm, and that outranks not knowing."""
    if any(not v.met for v in verdicts) or any(s.failed_gates for s in speeds):
        return ExitCode.FAILED
    if errors or any(v.outcome is Outcome.ERROR for v in verdicts):
        return ExitCode.INFRASTRUCTURE
    open_questions = [
        v for v in verdicts if v.outcome is Outcome.INCONCLUSIVE and v.required and v.expected is not Expectation.ANY
    ]
    nothing_ran = all(v.outcome is Outcome.UNSUPPORTED for v in verdicts)
    unknown = open_questions or nothing_ran or any(s.open_gates for s in speeds)
    return ExitCode.INCONCLUSIVE if unknown else ExitCode.MET
