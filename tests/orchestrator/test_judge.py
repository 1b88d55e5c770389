from __future__ import annotations

import struct
from typing import Any

import pytest

from orchestrator.judge import flip_rate_bound, judge
from orchestrator.plan import make_plan
from specs.device import Device
from specs.errors import ExitCode
from specs.job import Dtype, Property
from specs.result import Judgement, Measurement, Outcome, UnitFailure, UnitResult, Verdict
from specs.uniqueness import Sighting, UniquenessTable
from specs.unit import Capacity, KernelUnit, Plan
from tests.orchestrator.builders import environment, job, kernel_units, measurement

STEADY = ["a"]
FLIPPING = ["a", "b", "a", "c"]


class Case:
    """A job whose units answer as a test says."""

    def __init__(self, workers: int = 1, **changes: Any) -> None:
        capacity = Capacity(device=Device.CPU, workers=workers, cpus_per_worker=1, gpus_per_worker=0)
        self.plan: Plan = make_plan(job(**dict[str, Any](shapes=[[8, 1024, 8]], trials=12) | changes), capacity)
        self.answers: dict[str, list[str]] = {"streamk": FLIPPING}
        self.measured: dict[str, Measurement] = {}
        self.rounds: dict[str, list[Measurement]] = {}
        """What a variant's first measurements gave, where they were not alike."""
        self.unsupported: dict[str, str] = {}
        self.unsupported_units: set[int] = set()
        self.failures: list[UnitFailure] = []
        self.environments = [environment()]
        self.kept = "abc"
        """Answers whose bytes the farm has."""

    def judged(self) -> Judgement:
        failed = {failure.unit for failure in self.failures}
        results = [self._result(unit) for unit in kernel_units(self.plan) if unit.index not in failed]
        return judge(self.plan, results, self.failures, self._sample)

    def verdict(self, variant: str = "invariant") -> Verdict:
        return next(verdict for verdict in self.judged().verdicts if verdict.variant == variant)

    def units(self, variant: str) -> list[KernelUnit]:
        return [unit for unit in kernel_units(self.plan) if unit.variant == variant and unit.purpose != "measure"]

    def _sample(self, digest: str) -> bytes | None:
        answer = bytes.fromhex(digest)
        return struct.pack("<4H", *answer[:4]) if chr(answer[0]) in self.kept else None

    def _measurement(self, unit: KernelUnit) -> Measurement:
        rounds = self.rounds.get(unit.variant, [])
        return rounds.pop(0) if rounds else self.measured.get(unit.variant, measurement())

    def _result(self, unit: KernelUnit) -> UnitResult:
        table = UniquenessTable()
        where = self.environments[(unit.index if unit.slot is None else unit.slot) % len(self.environments)]
        unsupported = self.unsupported.get(unit.variant)
        if unit.index in self.unsupported_units:
            unsupported = "not on this device"
        if unsupported is None and unit.purpose != "measure":
            across = unit.purpose is Property.CROSS_DEVICE
            cell = table.cell(unit.group, "all devices" if across else where.stratum)
            cell.trials = unit.trials
            for trial in range(unit.first_trial, unit.first_trial + unit.trials):
                answers = self.answers.get(unit.variant, STEADY)
                digest = answers[trial % len(answers)].encode().ljust(16, b"-")
                cell.add(digest, Sighting(trial, unit.stress.value, unit.index, 1, "node"))
        return UnitResult(
            unit=unit.index,
            attempt=1,
            environment=where,
            cells=table.records(),
            measurement=self._measurement(unit) if unit.purpose == "measure" and unsupported is None else None,
            unsupported=unsupported,
            seconds=1.0,
        )


def test_what_did_not_flip_where_the_control_did_is_deterministic_with_its_bound() -> None:
    case = Case()
    verdict = case.verdict()
    assert (verdict.outcome, verdict.total, verdict.unique) == (Outcome.DETERMINISTIC, 12, 1)
    assert verdict.bound == pytest.approx(1 - 0.05 ** (1 / 12))
    assert case.judged().exit_code is ExitCode.MET


def test_the_bound_is_the_fields_known_figures() -> None:
    assert [round(flip_rate_bound(n) * 100, 2) for n in (50, 1000, 1275)] == [5.82, 0.3, 0.23]


def test_a_flip_is_told_with_how_often_when_first_and_its_witness() -> None:
    case = Case()
    verdict = case.verdict("streamk")
    assert (verdict.outcome, verdict.unique, verdict.flips, verdict.bound) == (Outcome.NONDETERMINISTIC, 3, 6, None)
    assert verdict.first_flip is not None and verdict.first_flip.trial == 1
    assert verdict.witness is not None and (verdict.witness.differing, verdict.witness.bits) == (
        1,
        ("0x0061", "0x0062"),
    )


def test_any_two_samples_that_were_kept_are_a_witness() -> None:
    """Which sighting is the first of all is known at the end; which samples to keep, long before."""
    case = Case()
    case.kept = "bc"
    witness = case.verdict("streamk").witness
    assert witness is not None and (witness.first.trial, witness.second.trial) == (1, 3)
    case.kept = "b"
    assert case.verdict("streamk").witness is None


def test_a_flip_of_what_should_not_fails_the_run() -> None:
    case = Case()
    case.answers["invariant"] = FLIPPING
    assert not case.verdict().met
    assert case.judged().exit_code is ExitCode.FAILED


def test_without_a_control_nothing_is_proved() -> None:
    case = Case(variants=["invariant"])
    assert case.verdict().outcome is Outcome.INCONCLUSIVE
    assert "no control for run_to_run" in str(case.verdict().reason)
    assert case.judged().exit_code is ExitCode.INCONCLUSIVE


def test_a_control_that_did_not_flip_proves_nothing() -> None:
    case = Case()
    case.answers["streamk"] = STEADY
    assert [v.outcome for v in case.judged().verdicts] == [Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE]
    assert case.verdict().reason == "no control flipped under the same conditions: streamk (12 trials)"
    assert case.judged().exit_code is ExitCode.INCONCLUSIVE


def test_a_control_on_another_shape_proves_nothing_here() -> None:
    case = Case(shapes=[[8, 1024, 8], [8, 2048, 8]])
    everything = case.judged().verdicts
    assert all(v.outcome is Outcome.DETERMINISTIC for v in everything if v.variant == "invariant")
    other = kernel_units(case.plan)[-1].shape
    case.plan = case.plan.model_copy(
        update={"units": tuple(u for u in kernel_units(case.plan) if u.variant == "invariant" or u.shape != other)}
    )
    units = tuple(u.model_copy(update={"index": index}) for index, u in enumerate(case.plan.units))
    case.plan = case.plan.model_copy(update={"units": units})
    outcomes = {v.subject: v.outcome for v in case.judged().verdicts if v.variant == "invariant"}
    assert outcomes[other] is Outcome.INCONCLUSIVE


def test_an_inconclusive_shape_that_is_not_required_does_not_count() -> None:
    case = Case(shapes=[{"mkn": [8, 1024, 8], "required": False}])
    case.answers["streamk"] = STEADY
    assert case.judged().exit_code is ExitCode.MET


def test_inputs_that_can_not_differ_prove_nothing() -> None:
    case = Case()
    case.measured = {
        name: measurement().model_copy(update={"reordered_elements": 0}) for name in ("streamk", "invariant")
    }
    assert "these inputs can't show a difference" in str(case.verdict().reason)
    assert case.verdict("streamk").outcome is Outcome.NONDETERMINISTIC


def test_one_trial_can_not_be_compared() -> None:
    assert "at least 2" in str(Case(trials=1).verdict().reason)


def test_one_device_can_not_be_compared_with_itself() -> None:
    one = Case(workers=2, properties=["cross_device"], stress=["quiet", "shifted_allocations"])
    assert "only one device" in str(one.verdict().reason)
    one.environments = [environment(device_uuid="GPU-1"), environment(device_uuid="GPU-2")]
    assert one.verdict().outcome is Outcome.DETERMINISTIC


def test_samples_of_different_strata_are_never_compared() -> None:
    case = Case(workers=2, trials=4, properties=["run_to_run"], stress=["quiet", "random_pauses"])
    case.environments = [environment(), environment(kernel_build="fedcba9876543210")]
    case.answers["invariant"] = STEADY
    strata = {v.stratum for v in case.judged().verdicts}
    assert len(strata) == 2


def test_a_unit_that_never_gave_samples_is_an_error_and_no_verdict() -> None:
    case = Case()
    lost = case.units("invariant")[0].index
    case.failures = [UnitFailure(unit=lost, attempt=3, reason="its worker died")]
    verdict = case.verdict()
    assert (verdict.outcome, verdict.reason) == (Outcome.ERROR, "its worker died")
    assert case.judged().exit_code is ExitCode.INFRASTRUCTURE


def test_a_flip_stays_a_flip_where_other_units_were_lost() -> None:
    case = Case(stress=["quiet", "random_pauses"])
    lost = case.units("streamk")[-1].index
    case.failures = [UnitFailure(unit=lost, attempt=3, reason="gone")]
    assert case.verdict("streamk").outcome is Outcome.NONDETERMINISTIC


def test_what_can_not_run_here_is_unsupported_and_does_not_fail() -> None:
    case = Case(variants=[{"name": "streamk", "expect": "nondeterministic"}, "invariant", "deep-gemm"])
    case.unsupported["deep-gemm"] = "it needs a Hopper GPU"
    assert case.verdict("deep-gemm").outcome is Outcome.UNSUPPORTED
    assert case.judged().exit_code is ExitCode.MET


def test_a_flip_is_final_where_other_units_could_not_run() -> None:
    case = Case(properties=["run_to_run"], stress=["quiet", "shifted_allocations"])
    case.unsupported_units = {case.units("invariant")[-1].index}
    assert "some of its units could not run: not on this device" in str(case.verdict().reason)
    case.answers["invariant"] = FLIPPING
    assert case.verdict().outcome is Outcome.NONDETERMINISTIC
    assert case.judged().exit_code is ExitCode.FAILED


def test_a_run_in_which_nothing_could_run_is_inconclusive() -> None:
    case = Case(variants=["deep-gemm"])
    case.unsupported["deep-gemm"] = "it needs a Hopper GPU"
    assert case.judged().exit_code is ExitCode.INCONCLUSIVE


def test_cost_is_over_the_fastest_variant_that_flipped() -> None:
    case = Case()
    case.measured["streamk"] = measurement().model_copy(update={"seconds": [1.0, 1.0, 1.0]})
    case.measured["invariant"] = measurement().model_copy(update={"seconds": [1.5, 1.2, 1.8]})
    costs = {speed.variant: speed.cost for speed in case.judged().speeds}
    assert costs == {"streamk": None, "invariant": 1.5}


@pytest.mark.parametrize(("error", "failed"), [(1.7e-3, False), (1.9e-3, True), (float("nan"), True)])
def test_the_accuracy_gate_is_a_multiple_of_the_rounding_floor(error: float, failed: bool) -> None:
    case = Case(gates={"accuracy": 1.1})
    case.measured["invariant"] = measurement(relative_error=error)
    gates = next(speed.failed_gates for speed in case.judged().speeds if speed.variant == "invariant")
    assert bool(gates) is failed
    assert (case.judged().exit_code is ExitCode.FAILED) is failed


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_one_wrong_measurement_among_right_ones_fails_the_accuracy_gate(error: float) -> None:
    case = Case(gates={"accuracy": 1.1})
    case.rounds["invariant"] = [measurement(), measurement(relative_error=error), measurement()]
    assert case.judged().exit_code is ExitCode.FAILED


def test_a_speed_gate_against_what_was_not_measured_is_open() -> None:
    variants = [{"name": "streamk", "expect": "nondeterministic"}, "invariant", {"name": "sgl-kernel", "expect": "any"}]
    case = Case(variants=variants, gates={"speed": {"against": "sgl-kernel"}})
    assert case.judged().exit_code is ExitCode.MET
    case.unsupported["sgl-kernel"] = "it needs a Hopper GPU"
    judged = case.judged()
    gates = {speed.variant: speed.open_gates for speed in judged.speeds}
    assert gates["streamk"] == [] and "sgl-kernel was not measured here" in gates["invariant"][0]
    assert judged.exit_code is ExitCode.INCONCLUSIVE


def test_the_speed_gate_is_for_deterministic_variants_alone() -> None:
    case = Case(gates={"speed": {"against": "streamk", "at_least": 0.9}})
    case.measured["streamk"] = measurement().model_copy(update={"seconds": [1.0, 1.0]})
    case.measured["invariant"] = measurement().model_copy(update={"seconds": [2.0, 2.0]})
    gates = {speed.variant: speed.failed_gates for speed in case.judged().speeds}
    assert gates["streamk"] == []
    assert gates["invariant"] == ["speed: 0.500 x streamk, at least 0.9 is wanted"]


def test_expectations_are_held_per_property() -> None:
    ordered = {"name": "streamk-ordered", "expect": {"batch_invariance": "nondeterministic"}}
    case = Case(variants=[ordered, "invariant"], properties=["batch_invariance", "run_to_run"])
    case.answers = {"streamk-ordered": FLIPPING}
    by_property = {v.property: v for v in case.judged().verdicts if v.variant == "invariant"}
    assert by_property[Property.BATCH_INVARIANCE].outcome is Outcome.DETERMINISTIC
    assert by_property[Property.RUN_TO_RUN].outcome is Outcome.INCONCLUSIVE
    assert all(v.dtype is Dtype.BF16 for v in by_property.values())
