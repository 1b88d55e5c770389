from __future__ import annotations

import json

from typer.testing import CliRunner

from orchestrator.cli.app import app
from specs.job import OWN_VARIANTS, PEER_VARIANTS


def test_doctor_asks_every_variant_and_says_what_is_missing() -> None:
    checks = {
        check["check"]: check for check in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["checks"]
    }
    assert set(checks) == {"device cpu", "device cuda"} | {f"variant {name}" for name in OWN_VARIANTS + PEER_VARIANTS}
    assert checks["device cpu"]["ok"]
    assert all(check["detail"] for check in checks.values())


def test_doctor_prints_a_line_for_each() -> None:
    answer = CliRunner().invoke(app, ["doctor"])
    assert answer.exit_code == 0
    assert "yes  variant invariant" in answer.stdout
