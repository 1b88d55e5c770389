"""The store: every test runs on SQLite and, where its server is installed, on PostgreSQL."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from orchestrator.store import Store
from orchestrator.tables import runs as runs_table
from specs.errors import ExitCode, InfrastructureError, UsageError
from specs.result import Judgement, RunRecord, RunStatus
from tests.orchestrator import builders


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


def new_run(store: Store, units: int = 3, name: str = "nightly") -> RunRecord:
    return store.create_run(builders.plan(units, name), farm_version="0.1.0")


def change_row(store: Store, run_id: str, **values: Any) -> None:
    with store._database.writing() as connection:
        connection.execute(sa.update(runs_table).where(runs_table.c.id == run_id).values(**values))


def test_a_run_is_read_back_as_it_was_made(store: Store) -> None:
    plan = builders.plan(units=3)
    before = datetime.now(UTC)
    run = store.create_run(plan, farm_version="0.1.0")
    assert store.plan(run.id) == plan
    assert (run.name, run.kind, run.status, run.units, run.units_done) == ("nightly", "kernel", "running", 3, 0)
    assert before <= run.created_at <= datetime.now(UTC)
    assert (run.finished_at, run.exit_code, run.judgement, run.environments) == (None, None, None, [])
    assert run.folder.endswith(run.id)


def test_a_result_is_read_back_as_it_was_recorded(store: Store) -> None:
    run = new_run(store)
    hostile = "a'; DROP TABLE runs; --\n\0\U0001f525"
    kept = [
        builders.result(2, measurement=builders.measurement(), cells=[]),
        builders.result(0, unsupported=hostile.replace("\0", "")),
    ]
    for result in kept:
        store.record_result(run.id, result)
    assert store.results(run.id) == [kept[1], kept[0]]
    assert store.get(run.id).units_done == 2


def test_a_relative_error_that_is_nan_survives(store: Store) -> None:
    run = new_run(store)
    store.record_result(run.id, builders.result(0, measurement=builders.measurement(math.nan)))
    (read,) = store.results(run.id)
    assert read.measurement is not None and math.isnan(read.measurement.relative_error)
    speeds = [builders.speed(relative_error=math.nan), builders.speed(relative_error=math.inf)]
    judgement = Judgement(verdicts=[], speeds=speeds, errors=[], exit_code=ExitCode.FAILED)
    judged = store.set_status(run.id, RunStatus.COMPLETE, judgement=judgement).judgement
    assert judged is not None
    assert [str(speed.relative_error) for speed in judged.speeds] == ["nan", "inf"]


def test_a_unit_has_one_result_only(store: Store) -> None:
    run = new_run(store)
    store.record_result(run.id, builders.result(1))
    with pytest.raises(InfrastructureError, match=r"unit 1 .* recorded already: the result of attempt 2 is dropped"):
        store.record_result(run.id, builders.result(1, attempt=2))
    assert [result.attempt for result in store.results(run.id)] == [1]


def test_what_is_not_in_the_plan_is_refused(store: Store) -> None:
    run = new_run(store, units=3)
    with pytest.raises(InfrastructureError, match="no unit 3"):
        store.record_result(run.id, builders.result(3))
    with pytest.raises(InfrastructureError, match="no unit -1"):
        store.record_failure(run.id, -1, 1, "lost")


def test_samples_of_a_dead_attempt_never_come_back(store: Store) -> None:
    run = new_run(store)
    store.record_failure(run.id, 0, 1, "its worker died")
    with pytest.raises(InfrastructureError, match="attempt 1 was given up"):
        store.record_result(run.id, builders.result(0, attempt=1))
    store.record_result(run.id, builders.result(0, attempt=2))
    with pytest.raises(InfrastructureError, match="is done"):
        store.record_failure(run.id, 0, 3, "late")


def test_pending_units_carry_the_number_of_their_next_attempt(store: Store) -> None:
    run = new_run(store, units=4)
    store.record_result(run.id, builders.result(1))
    store.record_failure(run.id, 2, 1, "its worker died")
    store.record_failure(run.id, 2, 2, "bad bytes \udcff and \0")
    assert [(unit.index, attempt) for unit, attempt in store.pending(run.id)] == [(0, 1), (2, 3), (3, 1)]
    failures = store.failures(run.id)
    assert [(failure.unit, failure.attempt) for failure in failures] == [(2, 1), (2, 2)]
    assert failures[1].reason == "bad bytes \\udcff and \\0"
    with pytest.raises(InfrastructureError, match="recorded already"):
        store.record_failure(run.id, 2, 2, "again")


def test_a_judgement_is_read_back_and_a_later_one_takes_its_place(store: Store) -> None:
    run = new_run(store)
    judgement = builders.every_outcome()
    complete = store.set_status(run.id, RunStatus.COMPLETE, judgement=judgement)
    assert complete.judgement == judgement
    assert (complete.status, complete.exit_code) == (RunStatus.COMPLETE, ExitCode.FAILED)
    assert complete.finished_at is not None and complete.finished_at >= complete.created_at

    taken_up = store.set_status(run.id, RunStatus.RUNNING)
    assert (taken_up.judgement, taken_up.finished_at, taken_up.exit_code) == (None, None, None)

    shorter = judgement.model_copy(update={"verdicts": judgement.verdicts[:1], "exit_code": ExitCode.MET})
    assert store.set_status(run.id, RunStatus.COMPLETE, judgement=shorter).judgement == shorter


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (RunStatus.INTERRUPTED, None, ExitCode.INTERRUPTED),
        (RunStatus.FAILED, OSError("the disk is full"), ExitCode.INFRASTRUCTURE),
        (RunStatus.FAILED, UsageError("no such variant"), ExitCode.USAGE),
    ],
)
def test_a_run_that_ended_early_has_its_exit_code(
    store: Store, status: RunStatus, error: Exception | None, code: ExitCode
) -> None:
    ended = store.set_status(new_run(store).id, status, error=error)
    assert (ended.status, ended.exit_code, ended.error) == (status, code, None if error is None else str(error))
    assert ended.finished_at is not None


def test_environments_are_told_once(store: Store) -> None:
    run, other = new_run(store, units=4), new_run(store)
    for index, node in enumerate(["node-1", "node-2", "node-1"]):
        store.record_result(run.id, builders.result(index, environment=builders.environment(node=node)))
    store.record_result(other.id, builders.result(0))
    assert [environment.node for environment in store.get(run.id).environments] == ["node-1", "node-2"]
    assert [environment.node for environment in store.get(other.id).environments] == ["node-1"]


def test_runs_are_listed_newest_first(store: Store) -> None:
    made = [new_run(store, name=name) for name in ("one", "two", "one")]
    for place, run in enumerate(made):
        change_row(store, run.id, created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=place))
    newest_first = [run.id for run in reversed(made)]
    assert [run.id for run in store.runs()] == newest_first
    assert [run.id for run in store.runs(limit=2)] == newest_first[:2]
    assert [run.id for run in store.runs(name="two")] == [made[1].id]
    assert store.get("latest").id == made[2].id
    assert [found for found, _ in store.ids()] == newest_first


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    with pytest.raises(UsageError, match="no runs yet: start one with farm submit"):
        store.get("latest")
    with pytest.raises(UsageError, match="no run '2026'"):
        store.get("2026")
    first, second = new_run(store), new_run(store)
    assert store.get(first.id[:-1]).id == first.id or second.id.startswith(first.id[:-1])
    with pytest.raises(UsageError, match=f"more than one run: .*{first.id}"):
        store.get(first.id[:4])
    wrong = first.id[:-1] + ("0" if first.id[-1] != "0" else "1")
    with pytest.raises(UsageError, match=f"did you mean .*{first.id}"):
        store.get(wrong)


@pytest.mark.parametrize("wanted", ["", "a'; DROP TABLE runs; --", "%", "_", "two\nlines", "\U0001f525", "x" * 5000])
def test_a_hostile_id_is_only_unknown(store: Store, wanted: str) -> None:
    run = new_run(store)
    with pytest.raises(UsageError, match="there is no run"):
        store.get(wanted)
    assert store.ids(wanted) == ([(run.id, "nightly")] if wanted == "" else [])


def test_a_run_of_a_process_that_is_gone_is_shown_as_interrupted(store: Store) -> None:
    run = new_run(store)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    change_row(store, run.id, pid=gone.pid)
    shown = store.get(run.id)
    assert (shown.status, shown.exit_code) == (RunStatus.INTERRUPTED, ExitCode.INTERRUPTED)
    assert store.runs()[0].status is RunStatus.INTERRUPTED
    with store._database.reading() as connection:
        assert connection.scalar(sa.select(runs_table.c.status)) == "running"  # nothing was written
    assert store.set_status(run.id, RunStatus.RUNNING).status is RunStatus.RUNNING


def test_a_pid_that_was_given_to_another_process_is_not_the_run(store: Store) -> None:
    run = new_run(store)
    change_row(store, run.id, process_started=1.0)
    assert store.get(run.id).status is RunStatus.INTERRUPTED


def test_a_run_on_another_machine_counts_as_running(store: Store) -> None:
    run = new_run(store)
    change_row(store, run.id, host=socket.gethostname() + "-2", pid=1)
    assert store.get(run.id).status is RunStatus.RUNNING


def test_a_run_whose_host_is_gone_can_be_taken_over(store: Store) -> None:
    run = new_run(store)
    change_row(store, run.id, host="pod-a", pid=7)
    with pytest.raises(UsageError, match=f"process 7 on pod-a.*if pod-a is gone, farm resume {run.id} --take-over"):
        store.set_status(run.id, RunStatus.RUNNING)
    store.set_status(run.id, RunStatus.RUNNING, take_over=True)
    assert store.set_status(run.id, RunStatus.RUNNING).status is RunStatus.RUNNING  # it is ours now


def test_a_run_that_another_process_is_running_can_not_be_taken_over(store: Store) -> None:
    run = new_run(store)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = psutil.Process(other.pid).create_time()
        change_row(store, run.id, pid=other.pid, process_started=started)
        for take_over in (False, True):  # one that can be seen to live can't be
            with pytest.raises(UsageError, match=f"is being run by process {other.pid}") as refused:
                store.set_status(run.id, RunStatus.RUNNING, take_over=take_over)
            assert "--take-over" not in str(refused.value)
        other.communicate(b"\n")
    assert store.set_status(run.id, RunStatus.RUNNING).status is RunStatus.RUNNING


def test_threads_share_a_store(store: Store) -> None:
    run = new_run(store, units=40)
    refused: list[InfrastructureError] = []

    def record(numbers: range) -> None:
        for number in numbers:
            try:
                store.record_result(run.id, builders.result(number))
            except InfrastructureError as error:
                refused.append(error)

    threads = [threading.Thread(target=record, args=(range(40),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.results(run.id)) == 40
    assert len(refused) == 80 and all("recorded already" in str(error) for error in refused)


_OPEN_AND_ADD = """
import sys
from orchestrator.store import Store
from tests.orchestrator import builders
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    print(store.create_run(builders.plan(), farm_version="0.1.0").id)
"""


def test_processes_may_open_a_new_database_at_once(url: str) -> None:
    command = [sys.executable, "-c", _OPEN_AND_ADD, url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:  # all have imported what they need, and wait
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [(process.returncode, error) for process, (_, error) in zip(processes, answers, strict=True)] == [
        (0, "")
    ] * 3
    with Store.open(url) as store:
        assert {run.id for run in store.runs()} == {out.strip() for out, _ in answers}


_WRITE_FOR_EVER = """
import sys
from orchestrator.store import Store
from tests.orchestrator import builders
store = Store.open(sys.argv[1])
run = store.create_run(builders.plan(5000), farm_version="0.1.0")
print(run.id, flush=True)
for number in range(5000):
    store.record_result(run.id, builders.result(number))
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_recorded(url: str) -> None:
    command = [sys.executable, "-c", _WRITE_FOR_EVER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        run_id = writer.stdout.readline().strip()
        told = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout.read().splitlines() if line]
    with Store.open(url) as store:
        kept = [result.unit for result in store.results(run_id)]
        assert kept[: len(told)] == told
        assert len(kept) <= len(told) + 1  # the one that was committed but not yet told
        assert store.get(run_id).status is RunStatus.INTERRUPTED
        assert store.pending(run_id)[0][0].index == len(kept)
