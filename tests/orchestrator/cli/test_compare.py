from __future__ import annotations

import json

from orchestrator.compare import Comparison, compare
from specs.result import RunRecord
from tests.orchestrator.cli.farm import farm
from tests.orchestrator.cli.stored import stored as stored


def test_causes_come_before_effects(stored: list[RunRecord]) -> None:
    code, out, err = farm("compare", stored[0].id, stored[1].id)
    assert (code, err) == (0, "")
    parts = (
        "spec: the same",
        "environment: 1 difference\n  torch: 2.13.0 -> 2.14.0",
        "verdicts: 4 changed, 3 did not",
        "persistent 128x7168x1536 bf16 run_to_run: nondeterministic (3 unique of 50) -> deterministic (1 unique of 50)",
        "deep-gemm 128x7168x1536 bf16 run_to_run: unsupported (0 unique of 0) -> (not there)",
        "times: median",
    )
    places = [out.index(part) for part in parts]
    assert places == sorted(places)
    rows = {line.split()[0]: line.split()[1:] for line in out[places[-1] :].splitlines() if "128x" in line}
    assert rows["streamk"] == ["128x7168x1536", "bf16", "1.00", "ms", "2.00", "ms", "2.00", "x", "slower"]
    assert rows["invariant"][-3:] == ["within", "the", "spread"]


def test_equal_runs_are_told_in_few_lines(stored: list[RunRecord]) -> None:
    out = farm("compare", stored[2].id, stored[2].id)[1]
    assert out.splitlines() == [
        "spec: the same",
        "environment: the same",
        "verdicts: no change in 0 groups",
        "times: none that both runs have",
    ]


def test_json_is_the_comparison(stored: list[RunRecord]) -> None:
    document = json.loads(farm("compare", stored[0].id, stored[1].id, "--json")[1])
    assert document.pop("format") == "farm.comparison/1"
    assert Comparison.model_validate_json(json.dumps(document)) == compare(stored[0], stored[1])


def test_both_runs_have_to_be_there(stored: list[RunRecord]) -> None:
    assert farm("compare", stored[0].id, "nope")[0] == 2
    assert farm("compare", stored[0].id)[0] == 2
