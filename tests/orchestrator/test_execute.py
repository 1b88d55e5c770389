from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import Cluster
from orchestrator.execute import ATTEMPTS, conclude, execute
from orchestrator.plan import make_plan
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.errors import ExitCode, InfrastructureError, UsageError
from specs.result import Outcome, RunRecord, RunStatus, UnitResult
from specs.unit import Capacity, WorkUnit
from tests.orchestrator.builders import environment, job

CONTROL = {"name": "python:tests.targets:unordered", "expect": "nondeterministic"}


class Silent:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished: list[tuple[WorkUnit, UnitResult | None, int]] = []

    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        self.finished.append((unit, result, flips))

    def note(self, line: str) -> None:
        self.notes.append(line)


def started(store: Store, cluster: Cluster, function: str = "right", **changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "variants": [CONTROL, f"python:tests.targets:{function}"],
        "shapes": [[2, 1024, 8]],
        "dtypes": ["fp32"],
        "trials": 6,
        "device": "cpu",
        "gates": {"accuracy": None},
    }
    wanted = job(**fields | changes)
    return store.create_run(make_plan(wanted, cluster.capacity(wanted)), farm_version="0")


def outcomes(record: RunRecord) -> dict[str, Outcome]:
    assert record.judgement is not None
    return {verdict.variant.rsplit(":", 1)[1]: verdict.outcome for verdict in record.judgement.verdicts}


def test_a_run_goes_from_plan_to_verdict_and_may_be_judged_again(
    store: Store, folder: RunFolder, cluster: Cluster
) -> None:
    progress = Silent()
    run = started(store, cluster)
    record = execute(store, folder, run.id, cluster, progress)
    assert record.status is RunStatus.COMPLETE
    assert outcomes(record) == {"unordered": Outcome.NONDETERMINISTIC, "right": Outcome.DETERMINISTIC}
    assert record.judgement is not None and record.judgement.verdicts[0].witness is not None
    assert len(progress.finished) == run.units
    assert progress.finished[-1][2] > 0
    assert record.environments[0].kernel_build
    # With nothing left to run it is judged again, without workers.
    assert execute(store, folder, run.id, Cluster([]), Silent()).judgement == record.judgement
    assert conclude(store, folder, run.id).judgement == record.judgement


def test_a_worker_killed_in_mid_unit_costs_an_attempt_and_its_samples(
    store: Store, folder: RunFolder, cluster: Cluster, scratch: Path
) -> None:
    (scratch / "dies_once").unlink(missing_ok=True)
    progress = Silent()
    record = execute(store, folder, started(store, cluster, "dies_once").id, cluster, progress)
    failures = store.failures(record.id)
    assert [failure.attempt for failure in failures] == [1]
    assert "worker died" in failures[0].reason
    assert any("was replaced" in note for note in progress.notes)
    # The two launches before the kill gave other results than all later ones: had they been kept, there were 3 unique.
    assert outcomes(record)["dies_once"] is Outcome.DETERMINISTIC
    assert record.status is RunStatus.COMPLETE


def test_a_unit_that_hangs_is_killed_at_its_time_out(
    store: Store, folder: RunFolder, cluster: Cluster, scratch: Path
) -> None:
    (scratch / "hangs_once").unlink(missing_ok=True)
    started_at = time.monotonic()
    run = started(store, cluster, "hangs_once", timeouts={"unit": 5.0})
    record = execute(store, folder, run.id, cluster, Silent())
    assert time.monotonic() - started_at < 60
    assert "longer than timeouts.unit (5 s)" in store.failures(run.id)[0].reason
    assert outcomes(record)["hangs_once"] is Outcome.DETERMINISTIC


def test_a_unit_that_always_fails_is_given_up_and_is_no_verdict(
    store: Store, folder: RunFolder, cluster: Cluster
) -> None:
    run = started(store, cluster, "raises")
    record = execute(store, folder, run.id, cluster, Silent())
    attempts = {failure.unit: failure.attempt for failure in store.failures(run.id)}
    assert set(attempts.values()) == {ATTEMPTS}
    assert outcomes(record)["raises"] is Outcome.ERROR
    assert record.exit_code == 4
    assert "RuntimeError: no such luck" in folder.log_file.read_text()


def test_an_interrupted_run_is_resumed_where_it_stopped(store: Store, folder: RunFolder, cluster: Cluster) -> None:
    class Interrupting(Silent):
        def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
            super().advance(unit, result, flips)
            if len(self.finished) == 3:
                raise KeyboardInterrupt

    run = started(store, cluster)
    with pytest.raises(KeyboardInterrupt):
        execute(store, folder, run.id, cluster, Interrupting())
    assert store.get(run.id).status is RunStatus.INTERRUPTED
    assert len(store.pending(run.id)) == run.units - 3
    progress = Silent()
    record = execute(store, folder, run.id, cluster, progress)
    assert len(progress.finished) == run.units - 3
    assert outcomes(record) == {"unordered": Outcome.NONDETERMINISTIC, "right": Outcome.DETERMINISTIC}


def test_a_run_is_not_resumed_with_other_software_and_keeps_where_it_was_run(
    store: Store, folder: RunFolder, cluster: Cluster
) -> None:
    run = started(store, cluster)
    earlier = environment(torch="2.12.0")
    unit = store.pending(run.id)[0][0].index
    store.record_result(run.id, UnitResult(unit=unit, attempt=1, environment=earlier, cells=[], seconds=1.0))
    with pytest.raises(InfrastructureError, match=r"torch: 2\.12\.0 on an earlier worker \(node-1\), .* on worker 0"):
        execute(store, folder, run.id, cluster, Silent())
    assert store.get(run.id).status is RunStatus.FAILED
    assert store.get(run.id).environments == [earlier]


def test_a_variant_that_is_not_there_ends_the_run_and_says_so(
    store: Store, folder: RunFolder, cluster: Cluster
) -> None:
    run = started(store, cluster, "nothing")
    with pytest.raises(UsageError, match="can't be imported"):
        execute(store, folder, run.id, cluster, Silent())
    record = store.get(run.id)
    assert "can't be imported" in str(record.error)
    assert (record.status, record.exit_code) == (RunStatus.FAILED, ExitCode.USAGE)


def test_workers_that_do_not_start_are_said_to_be_missing(cluster: Cluster, store: Store) -> None:
    run = started(store, cluster)
    wanted = run.job.model_copy(update={"timeouts": run.job.timeouts.model_copy(update={"wait": 1.0})})
    too_big = Capacity(device=store.plan(run.id).capacity.device, workers=1, cpus_per_worker=999, gpus_per_worker=0)
    with pytest.raises(InfrastructureError, match=r"1 of 1 workers did not start within 1 s: each needs 999 CPU"):
        cluster.hire(too_big, wanted, [0])


def test_a_full_disk_fails_the_run_in_plain_words_and_loses_nothing(
    store: Store, folder: RunFolder, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(store, cluster)
    real, calls = RunFolder.save_witness, threading.Semaphore(1)

    def full(self: RunFolder, digest: str, sample: bytes) -> None:
        if not calls.acquire(blocking=False):
            raise InfrastructureError("can't write witnesses: the disk is full")
        real(self, digest, sample)

    monkeypatch.setattr(RunFolder, "save_witness", full)
    with pytest.raises(InfrastructureError, match="the disk is full"):
        execute(store, folder, run.id, cluster, Silent())
    assert store.get(run.id).status is RunStatus.FAILED
    monkeypatch.setattr(RunFolder, "save_witness", real)
    assert execute(store, folder, run.id, cluster, Silent()).status is RunStatus.COMPLETE
