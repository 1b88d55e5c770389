from __future__ import annotations

from specs.errors import ExitCode
from specs.schema import schema_text
from tests.orchestrator.cli.farm import farm


def test_it_prints_what_is_committed_as_schema_json() -> None:
    assert farm("schema") == (ExitCode.MET, schema_text(), "")
