from __future__ import annotations

from orchestrator.summary import summarise
from specs.errors import ExitCode
from specs.job import Expectation, Property
from specs.result import Judgement, Outcome
from tests.orchestrator.builders import every_outcome, verdict


def test_a_run_in_four_numbers() -> None:
    assert summarise(every_outcome()) == {
        "launches": 200,
        "unique_max": 3,
        "invariance_bits_differing": 0,
        "control_unique_min": 7,
    }


def test_flips_across_batches_are_counted_as_such() -> None:
    control = {"expected": Expectation.NONDETERMINISTIC}
    verdicts = [
        verdict("a", Outcome.NONDETERMINISTIC, property=Property.BATCH_INVARIANCE, flips=4),
        verdict("b", Outcome.NONDETERMINISTIC, property=Property.RUN_TO_RUN, flips=9),
        verdict("c", Outcome.INCONCLUSIVE, required=False, **control),
    ]
    summary = summarise(Judgement(verdicts=verdicts, speeds=[], errors=[], exit_code=ExitCode.FAILED))
    assert summary["invariance_bits_differing"] == 4
    assert summary["control_unique_min"] is None
