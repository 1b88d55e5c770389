from __future__ import annotations

import json

import pytest

from orchestrator.store import Store
from specs.errors import ExitCode
from specs.result import RunRecord, RunStatus
from tests.orchestrator.cli.farm import farm
from tests.orchestrator.cli.stored import stored as stored


def test_a_run_is_shown_as_submit_printed_it(stored: list[RunRecord]) -> None:
    code, out, err = farm("show", stored[0].id)
    assert (code, err) == (0, "")
    assert "no control flipped under the same conditions" in out
    assert out.endswith("exit 1: an expectation failed\n")


def test_json_is_the_record(stored: list[RunRecord]) -> None:
    document = json.loads(farm("show", stored[0].id, "--json")[1])
    assert document.pop("format") == "farm.run/1"
    assert document.pop("summary")["launches"] > 0
    assert RunRecord.model_validate_json(json.dumps(document)) == stored[0]


@pytest.mark.parametrize(("place", "code"), [(0, ExitCode.FAILED), (2, ExitCode.INCONCLUSIVE)])
def test_the_exit_status_is_that_of_the_run_if_asked(stored: list[RunRecord], place: int, code: ExitCode) -> None:
    assert farm("show", stored[place].id, "--exit-status")[0] == code
    assert farm("show", stored[place].id, "--exit-status", "--json")[0] == code
    assert farm("show", stored[place].id)[0] == 0


def test_the_exit_status_of_an_interrupted_run(stored: list[RunRecord]) -> None:
    with Store.open() as store:
        store.set_status(stored[2].id, RunStatus.INTERRUPTED)
    code, out, _ = farm("show", stored[2].id, "--exit-status")
    assert code == ExitCode.INTERRUPTED and f"Go on with farm resume {stored[2].id}" in out


@pytest.mark.parametrize("wanted", ["nope", "a'; DROP TABLE runs; --", "two\nlines", "\U0001f525", ""])
def test_a_run_that_is_not_there(stored: list[RunRecord], wanted: str) -> None:
    code, out, err = farm("show", wanted)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("farm: there is no run ") and "farm list" in err and err.count("\n") == 1
