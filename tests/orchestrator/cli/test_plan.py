from __future__ import annotations

import json

from typer.testing import CliRunner

from orchestrator.cli.app import app


def test_plan_prints_what_submit_would_run() -> None:
    answer = CliRunner().invoke(app, ["plan", "quick", "--set", "device=cpu", "--json"])
    document = json.loads(answer.stdout)
    assert document["format"] == "farm.plan/1"
    assert {unit["purpose"] for unit in document["units"]} == {"measure", "run_to_run", "batch_invariance"}


def test_plan_of_a_model_is_of_batches() -> None:
    answer = CliRunner().invoke(app, ["plan", "model-nano", "--set", "trials=50", "--units"])
    assert "unit 0 (streamk fp32 single): trials 1 to " in answer.stdout
    assert "  p_vs_d: 100 batches" in answer.stdout


def test_plan_lists_units_on_request() -> None:
    short = CliRunner().invoke(app, ["plan", "quick"]).stdout
    long = CliRunner().invoke(app, ["plan", "quick", "--units"]).stdout
    assert "unit 0 (streamk" not in short
    assert "unit 0 (streamk" in long
    assert "about" in short
