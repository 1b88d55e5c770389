"""Runs in the database that the commands under test open."""

from __future__ import annotations

import pytest

from orchestrator.store import Store
from specs.result import Judgement, RunRecord, RunStatus
from tests.orchestrator import builders


@pytest.fixture
def stored(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> list[RunRecord]:
    """Three runs: complete with every outcome, complete with less, and running in this process."""
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    monkeypatch.setenv("FARM_RUNS_DIR", f"{tmp_path}/runs")
    full = builders.every_outcome()
    less = full.model_copy(
        update={
            "verdicts": [*full.verdicts[:3], builders.verdict("persistent")],
            "speeds": [builders.speed("streamk", 2.0e-3), builders.speed("invariant", 1.21e-3)],
        }
    )
    with Store.open() as store:
        return [_run(store, full, "2.13.0"), _run(store, less, "2.14.0"), _run(store, None, "2.14.0", name="other")]


def _run(store: Store, judgement: Judgement | None, torch: str, name: str = "nightly") -> RunRecord:
    run = store.create_run(builders.plan(name=name), farm_version="0.1.0")
    store.record_result(run.id, builders.result(0, environment=builders.environment(torch=torch)))
    if judgement is not None:
        store.set_status(run.id, RunStatus.COMPLETE, judgement=judgement)
    return store.get(run.id)
