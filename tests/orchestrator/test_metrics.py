from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.database import Database
from orchestrator.metrics import FarmCollector, service_registry
from orchestrator.store import Store
from orchestrator.tables import runs
from specs.errors import ExitCode
from specs.job import Dtype, Property
from specs.result import Judgement, Outcome, RunStatus
from tests.orchestrator import builders

CPU = "Some CPU @ 2 GHz"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.engine.dispose()


@pytest.fixture
def collector(database: Database) -> FarmCollector:
    return FarmCollector(database)


def judged(store: Store, judgement: Judgement, name: str = "nightly") -> str:
    run = store.create_run(builders.plan(name=name), farm_version="0.1.0")
    store.set_status(run.id, RunStatus.COMPLETE, judgement=judgement)
    return run.id


def holds(**changes: Any) -> Judgement:
    return Judgement(
        verdicts=[builders.verdict(**changes)], speeds=[builders.speed()], errors=[], exit_code=ExitCode.MET
    )


def values(collector: FarmCollector, name: str, **wanted: str) -> list[float]:
    """Of the series of a metric that have these labels."""
    return [
        sample.value
        for family in text_string_to_metric_families(generate_latest(collector).decode())
        for sample in family.samples
        if sample.name == name and wanted.items() <= sample.labels.items()
    ]


def test_totals_add_up_all_runs_of_a_spec_and_survive_a_restart(store: Store, database: Database) -> None:
    for _ in range(3):
        judged(store, builders.every_outcome())
    judged(store, holds(), name="other")
    for collector in (FarmCollector(database), FarmCollector(database)):
        streamk = {"spec": "nightly", "variant": "streamk", "property": "run_to_run", "device": CPU}
        assert values(collector, "farm_samples_total", **streamk) == [150]
        assert values(collector, "farm_flips_total", **streamk, shape="128x7168x1536", dtype="bf16") == [93]
        assert values(collector, "farm_samples_total", spec="other") == [50]


def test_what_is_not_a_total_is_of_the_newest_judged_run(store: Store, collector: FarmCollector) -> None:
    judged(store, builders.every_outcome())
    judged(store, holds(total=400, bound=0.0075))
    store.create_run(builders.plan(), farm_version="0.1.0")  # not judged yet
    assert values(collector, "farm_last_run_samples") == [400]
    assert values(collector, "farm_last_run_distinct_digests") == [1]
    assert values(collector, "farm_flip_rate_bound_ratio") == [0.0075]
    assert values(collector, "farm_kernel_time_seconds") == [1.2e-3]
    assert values(collector, "farm_verdict_state", variant="streamk") == []


@pytest.mark.parametrize("outcome", Outcome)
def test_one_state_of_a_verdict_is_1_and_the_others_are_0(
    store: Store, collector: FarmCollector, outcome: Outcome
) -> None:
    judged(store, holds(outcome=outcome))
    states = {state: values(collector, "farm_verdict_state", state=state) for state in Outcome}
    assert states == {state: [float(state is outcome)] for state in Outcome}
    assert values(collector, "farm_verdict_state", expected="deterministic", state=outcome) == [1]


def test_the_worst_of_two_drivers_is_shown_for_their_model_of_gpu(store: Store, collector: FarmCollector) -> None:
    verdicts = [
        builders.verdict(stratum="NVIDIA H200 / 580.1 / 0123", bound=0.01, total=300),
        builders.verdict(outcome=Outcome.NONDETERMINISTIC, stratum="NVIDIA H200 / 580.2 / 0123", total=20),
        builders.verdict(stratum="NVIDIA H100 / 580.2 / 0123", bound=0.02, total=150),
    ]
    judged(store, Judgement(verdicts=verdicts, speeds=[], errors=[], exit_code=ExitCode.FAILED))
    assert values(collector, "farm_verdict_state", device="NVIDIA H200", state="nondeterministic") == [1]
    assert values(collector, "farm_verdict_state", device="NVIDIA H100", state="deterministic") == [1]
    assert values(collector, "farm_last_run_samples", device="NVIDIA H200") == [320]
    assert values(collector, "farm_last_run_distinct_digests", device="NVIDIA H200") == [3]


def test_cost_and_time_of_each_variant(store: Store, collector: FarmCollector) -> None:
    judged(store, builders.every_outcome())
    assert values(collector, "farm_determinism_cost_ratio") == [1.2]
    assert values(collector, "farm_kernel_time_seconds", variant="persistent") == [0.9e-3]
    assert len(values(collector, "farm_kernel_time_seconds")) == 3


def test_a_time_that_is_no_number_is_left_out(store: Store, collector: FarmCollector) -> None:
    judged(
        store, Judgement(verdicts=[], speeds=[builders.speed(median=float("nan"))], errors=[], exit_code=ExitCode.MET)
    )
    assert [value for value in values(collector, "farm_kernel_time_seconds") if value == value] == []


def test_how_and_when_runs_ended(store: Store, collector: FarmCollector) -> None:
    run = judged(store, holds())
    ended = store.get(run).finished_at
    failed = store.create_run(builders.plan(), farm_version="0.1.0")
    store.set_status(failed.id, RunStatus.FAILED, error=OSError("the disk is full"))
    last = store.get(failed.id)
    assert ended is not None and last.finished_at is not None
    end = last.finished_at.timestamp()
    success = values(collector, "farm_last_success_timestamp_seconds")
    assert success == pytest.approx([ended.timestamp()], rel=1e-12)
    assert values(collector, "farm_last_run_timestamp_seconds") == pytest.approx([end], rel=1e-12)
    assert values(collector, "farm_last_run_exit_code") == [ExitCode.INFRASTRUCTURE]
    duration = end - last.created_at.timestamp()
    assert values(collector, "farm_last_run_duration_seconds") == pytest.approx([duration], abs=1e-5)


def test_a_spec_that_never_succeeded_has_no_success(store: Store, collector: FarmCollector) -> None:
    judged(store, builders.every_outcome())
    assert values(collector, "farm_last_success_timestamp_seconds") == []
    assert len(values(collector, "farm_last_run_timestamp_seconds")) == 1


def test_a_run_whose_process_died_counts_as_interrupted(
    store: Store, collector: FarmCollector, database: Database
) -> None:
    for _ in range(2):
        run = store.create_run(builders.plan(), farm_version="0.1.0")
    assert values(collector, "farm_runs", status="running") == [2]
    with database.writing() as connection:
        connection.execute(sa.update(runs).where(runs.c.id == run.id).values(process_started=1.0))
    assert values(collector, "farm_runs", status="running") == [1]
    assert values(collector, "farm_runs", status="interrupted") == [1]
    assert values(collector, "farm_runs", status="complete") == [0]


def test_totals_never_fall_while_a_judged_run_is_resumed(store: Store, collector: FarmCollector) -> None:
    run = judged(store, builders.every_outcome())
    assert values(collector, "farm_flips_total", variant="streamk") == [31]
    store.set_status(run, RunStatus.RUNNING)
    assert values(collector, "farm_flips_total", variant="streamk") == [31]
    store.set_status(run, RunStatus.COMPLETE, judgement=builders.every_outcome())
    assert values(collector, "farm_flips_total", variant="streamk") == [31]


def test_no_label_grows_with_the_number_of_runs(store: Store, collector: FarmCollector) -> None:
    def series() -> int:
        return len(generate_latest(collector).splitlines())

    judged(store, builders.every_outcome())
    before = series()
    for build in ("aaaa", "bbbb"):
        judged(store, builders.every_outcome())
        judged(store, holds(stratum=f"{CPU} / - / {build}"))
    judged(store, builders.every_outcome())
    assert series() - before == len(["farm_last_success_timestamp_seconds"])


def test_an_empty_database_has_metrics_without_series(collector: FarmCollector) -> None:
    text = generate_latest(collector).decode()
    assert "# TYPE farm_verdict_state gauge\n#" in text
    assert values(collector, "farm_scrape_success") == [1]
    assert values(collector, "farm_build_info", version=version("determinism-farm")) == [1]


def test_a_name_with_quotes_comes_out_as_it_went_in(store: Store, collector: FarmCollector) -> None:
    name = 'python:a"b\\c:d\ne'
    judged(store, holds(variant=name))
    assert values(collector, "farm_samples_total", variant=name) == [50]


def test_a_broken_database_repeats_the_last_answer_and_says_so(
    store: Store, collector: FarmCollector, database: Database
) -> None:
    judged(store, holds())
    assert values(collector, "farm_samples_total") == [50]
    with database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE speeds RENAME TO gone"))
    assert values(collector, "farm_samples_total") == [50]
    assert values(collector, "farm_scrape_success") == [0]
    assert "speeds" in str(collector.failure)
    with database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO speeds"))
    assert values(collector, "farm_scrape_success") == [1]
    assert values(collector, "farm_scrape_errors_total") == [2]


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process holds the locks that every reader of this SQLite file needs."""
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(file, fcntl.LOCK_EX, 8, 120); print('locked', flush=True); sys.stdin.read()"
    )
    command = ["python3", "-c", script, f"{database}-shm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.stdin.close()


def await_success(collector: FarmCollector) -> None:
    """A busy machine may take more than the deadline for the first one."""
    patience = time.monotonic() + 20
    while values(collector, "farm_scrape_success") == [0]:
        assert time.monotonic() < patience


def test_a_locked_database_does_not_hold_up_a_scrape(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/farm.db")
    collector = FarmCollector(database, deadline_s=0.3)
    judged(Store(database), holds())
    await_success(collector)
    threads = threading.active_count()
    with locked(tmp_path / "farm.db"):
        for _ in range(2):
            assert values(collector, "farm_samples_total") == [50]
        assert str(collector.failure) == "the database did not answer in 0.3 s"
        assert threading.active_count() == threads + 1
    await_success(collector)
    assert values(collector, "farm_scrape_errors_total")[0] >= 2
    database.engine.dispose()


def test_promtool_has_nothing_to_say(store: Store, collector: FarmCollector) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    judged(store, builders.every_outcome())
    judged(store, holds(dtype=Dtype.FP16, property=Property.CROSS_PROCESS), name="other")
    text = generate_latest(service_registry(collector))
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
    assert re.search(rb"^process_resident_memory_bytes \d", text, re.MULTILINE)


def test_a_models_group_has_a_mode_and_a_prompt_and_no_shape(store: Store, collector: FarmCollector) -> None:
    judged(store, builders.model_judgement(), "nightly-model")
    text = generate_latest(service_registry(collector)).decode()
    labels = f'device="{CPU}",dtype="bf16",mode="mixed",prompt="long prompt",property="batch_invariance",shape=""'
    assert f'farm_samples_total{{{labels},spec="nightly-model",variant="invariant"}} 50.0' in text
    labels = f'device="{CPU}",dtype="bf16",mode="mixed",spec="nightly-model",variant="invariant"'
    assert f"farm_generation_tokens_per_second{{{labels}}} 50.0" in text
    assert f"farm_generation_cost_ratio{{{labels}}} 1.6" in text
