from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.judge import judge
from orchestrator.plan import make_plan
from orchestrator.report.sglang import sglang_lines
from orchestrator.summary import summarise_modes
from specs.device import Device
from specs.errors import ExitCode
from specs.job import Property
from specs.result import Generation, Judgement, Outcome, UnitFailure, UnitResult, Verdict
from specs.subject import Prompt
from specs.uniqueness import Sighting, UniquenessTable
from specs.unit import Capacity, ModelUnit
from tests.orchestrator.builders import environment, model_job, record
from workers.drawing import FIRST_ROW
from workers.engine.samples import encode

FLIPPING, STEADY = ["a", "b"], ["a", "a"]


class Case:
    """A job whose units answer as a test says: for each (target, prompt), the digests of every group's samples."""

    def __init__(self, **changes: Any) -> None:
        self.job = model_job(**dict[str, Any](modes=["mixed"], trials=12) | changes)
        capacity = Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0)
        self.plan = make_plan(self.job, capacity)
        self.answers: dict[tuple[str, str], list[str]] = {("streamk", "prompt 1"): FLIPPING}
        self.failures: list[UnitFailure] = []
        self.environments = [environment()]

    def judged(self) -> Judgement:
        failed = {failure.unit for failure in self.failures}
        units = [unit for unit in self.plan.units if isinstance(unit, ModelUnit) and unit.index not in failed]
        samples = {name: encode([7], np.array([value], dtype=np.float32)) for value, name in enumerate("abc")}
        return judge(
            self.plan, [self._result(unit) for unit in units], self.failures, lambda d: samples[chr(int(d[:2], 16))]
        )

    def verdict(self, target: str, prompt: str = "prompt 1", prop: Property = Property.BATCH_INVARIANCE) -> Verdict:
        def wanted(verdict: Verdict) -> bool:
            subject = verdict.subject
            return isinstance(subject, Prompt) and (verdict.variant, subject.name, verdict.property) == (
                target,
                prompt,
                prop,
            )

        return next(filter(wanted, self.judged().verdicts))

    def _result(self, unit: ModelUnit) -> UnitResult:
        table = UniquenessTable()
        where = self.environments[unit.index % len(self.environments)]
        for group in unit.groups:
            assert isinstance(group.subject, Prompt)
            cell = table.cell(group, where.stratum)
            for trial, digest in enumerate(self.answers.get((unit.variant, group.subject.name), STEADY)):
                cell.trials += 1
                cell.add(digest.encode() * 16, Sighting(trial, f"row {trial} of 2", unit.index, 1, "node"))
        rate = 100.0 if unit.variant == "streamk" else 50.0
        generation = Generation(prompt_tokens=10, new_tokens=100, seconds=100 / rate)
        return UnitResult(
            unit=unit.index, attempt=1, environment=where, cells=table.records(), generation=generation, seconds=1.0
        )


def test_a_control_that_flips_on_one_prompt_proves_its_whole_mode() -> None:
    case = Case()
    assert case.verdict("streamk").outcome is Outcome.NONDETERMINISTIC
    assert case.verdict("invariant").outcome is Outcome.DETERMINISTIC
    assert case.verdict("invariant", "long prompt").outcome is Outcome.DETERMINISTIC
    assert case.verdict("streamk", "long prompt").outcome is Outcome.INCONCLUSIVE


def test_a_control_that_flips_in_another_mode_proves_nothing() -> None:
    case = Case(modes=["mixed", "prefix"])
    prefix = case.verdict("invariant", "prefix length 40")
    assert prefix.outcome is Outcome.INCONCLUSIVE
    assert str(prefix.reason).startswith("no control flipped under the same conditions: streamk (2 trials)")
    assert case.judged().exit_code is ExitCode.INCONCLUSIVE


def test_strata_are_never_mixed() -> None:
    case = Case(modes=["single"], trials=200, max_new_tokens=100)
    case.environments = [environment(), environment(kernel_build="f" * 16)]
    strata = {verdict.stratum for verdict in case.judged().verdicts if verdict.variant == "invariant"}
    assert len(strata) == 2


def test_lost_units_are_errors_and_flips_stay_flips() -> None:
    case = Case()
    lost = next(unit.index for unit in case.plan.units if unit.variant == "invariant")
    case.failures = [UnitFailure(unit=lost, attempt=3, reason="rank 1 died")]
    assert (case.verdict("invariant").outcome, case.verdict("invariant").reason) == (Outcome.ERROR, "rank 1 died")
    assert case.verdict("streamk").outcome is Outcome.NONDETERMINISTIC
    assert case.judged().exit_code is ExitCode.INFRASTRUCTURE


def test_targets_that_differ_in_tp_alone_are_one_group() -> None:
    same = {"gemm": "invariant", "collective": "tree", "tp_granularity": 2}
    control = {"gemm": "streamk", "expect": "nondeterministic"}
    targets = [{"name": "a", **same}, {"name": "b", "tp": 2, **same}, {"name": "streamk", **control}]
    case = Case(targets=[*targets, {"name": "streamk-2", "tp": 2, **control}], tp_invariance=True)
    assert case.verdict("a+b", prop=Property.TP_INVARIANCE).outcome is Outcome.DETERMINISTIC
    case.answers["b", "prompt 1"] = ["c", "c"]
    parted = case.verdict("a+b", prop=Property.TP_INVARIANCE)
    assert (parted.outcome, parted.total, parted.unique) == (Outcome.NONDETERMINISTIC, 4, 2)
    assert case.verdict("b").outcome is Outcome.DETERMINISTIC


def test_targets_on_different_hardware_were_not_compared() -> None:
    same = {"gemm": "invariant", "collective": "tree", "tp_granularity": 2}
    control = {"gemm": "streamk", "expect": "nondeterministic"}
    targets = [{"name": "a", **same}, {"name": "b", "tp": 2, **same}, {"name": "streamk", **control}]
    case = Case(targets=[*targets, {"name": "streamk-2", "tp": 2, **control}], tp_invariance=True)
    case.environments = [environment(), environment(kernel_build="f" * 16)]
    assert [unit.index % 2 for unit in case.plan.units if unit.variant in "ab"] == [0, 1]
    case.answers["b", "prompt 1"] = ["c", "c"]
    verdict = case.verdict("a+b", prop=Property.TP_INVARIANCE)
    assert (verdict.outcome, verdict.total) == (Outcome.INCONCLUSIVE, 2)
    assert str(verdict.reason).startswith("b did not run on this hardware")


def test_a_witness_of_answers_names_the_token() -> None:
    witness = Case().verdict("streamk").witness
    assert witness is not None
    assert witness.values == ("token 7, logprob 0.0", "token 7, logprob 1.0")
    assert (witness.elements, witness.differing, witness.index) == (1, 1, 0)


def test_cost_is_tokens_a_second_of_the_target_that_flipped_over_this_ones() -> None:
    found = {one.variant: (one.tokens_per_second, one.cost) for one in Case().judged().throughputs}
    assert found == {"streamk": (100.0, None), "invariant": (50.0, 2.0)}


def test_a_mode_is_summed_up_over_its_prompts() -> None:
    case = Case(modes=["single"], compat="sglang")
    case.answers["streamk", FIRST_ROW] = ["a", "b", "c"]
    summary = summarise_modes(case.judged())["configurations"][0]
    assert summary == {
        "target": "streamk",
        "mode": "single",
        "property": "batch_invariance",
        "total": 2,
        "unique": 2,
        "verdict": "nondeterministic",
        "tokens_per_second": 100.0,
        "cost": None,
        "first_divergence": None,
        "row0_unique": 3,
    }


def test_counts_are_told_in_sglangs_words() -> None:
    case = Case(modes=["single", "mixed", "prefix", "neighbour"], prefix_lengths=[40, 1])
    lines = sglang_lines(record(case.judged(), job=case.job, kind="model"))["streamk"]
    assert lines == [
        "Total samples: 2, Unique samples: 2",
        "Prompt 1: total samples: 2, Unique samples: 2",
        "Prompt 2: total samples: 2, Unique samples: 1",
        "Long prompt: total samples: 2, Unique samples: 1",
        "Prompt 1 with prefix length 1: total samples: 2, Unique samples: 1",
        "Prompt 0 with prefix length 40: total samples: 2, Unique samples: 1",
    ]
