"""Gangs on the session's Ray: real processes, real gloo, and a rank that dies or hangs at each stage."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from orchestrator.cluster import Cluster
from orchestrator.execute import execute
from orchestrator.gang import Gang, GangError, environment_of
from orchestrator.plan import make_plan
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.device import Device
from specs.errors import InfrastructureError, UsageError
from specs.model_job import ModelJob
from specs.result import Outcome, RunRecord, RunStatus
from specs.unit import Capacity
from tests.orchestrator.builders import model_job
from tests.orchestrator.test_execute import Silent
from tests.ranks import FaultyRank, fault_file
from workers.rank import gpu_index


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Called with lines of `STAGE how`: rank 1 of the gangs to come has these faults, each once."""
    monkeypatch.setattr("workers.rank.Rank", FaultyRank)
    yield fault_file().write_text
    fault_file().unlink(missing_ok=True)


def assembled(cluster: Cluster, job: ModelJob) -> Gang:
    return Gang.assemble(cluster, job, job.targets[1], cluster.capacity(job), 0)


def run(cluster: Cluster, store: Store, folder: RunFolder, job: ModelJob) -> tuple[RunRecord, Silent]:
    progress = Silent()
    record = store.create_run(make_plan(job, cluster.capacity(job)), farm_version="0")
    return execute(store, folder, record.id, cluster, progress), progress


def all_is_given_back(cluster: Cluster) -> bool:
    """Whether no gang holds CPUs any more; Ray takes a moment to count them."""
    whole = sum(node["Resources"]["CPU"] for node in cluster.nodes)
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < whole and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(ray.available_resources().get("CPU", 0) == whole)


@pytest.mark.parametrize(
    ("strikes", "told"),
    [
        ("prepare die", r"rank 1 of 2 of invariant died when it was to build kernels"),
        ("arrive hang", r"rank 1 of 2 of invariant did not come to the rendezvous within 5 s"),
        ("join die", r"rank 1 of 2 of invariant died when it was to join the others"),
        ("load die", r"rank 1 of 2 of invariant died when it was to load the model"),
        ("load hang", r"rank 1 of 2 of invariant did not load the model within 4 s"),
    ],
)
def test_a_rank_that_is_lost_before_the_first_unit_is_named_and_the_gang_torn_down(
    cluster: Cluster, fault: Any, strikes: str, told: str
) -> None:
    fault(strikes)
    limits = {"rendezvous": 5.0 if "hang" in strikes else 30.0, "load": 4.0 if "hang" in strikes else 60.0}
    started = time.monotonic()
    with pytest.raises(GangError, match=told):
        assembled(cluster, model_job(timeouts=limits))
    assert time.monotonic() - started < 60
    assert all_is_given_back(cluster)


def test_a_lost_rank_costs_an_attempt_and_no_samples_of_it_are_kept(
    cluster: Cluster, store: Store, folder: RunFolder, fault: Any
) -> None:
    fault("arrive die\nrun later\nrun well\nrun hang")
    record, progress = run(cluster, store, folder, model_job(timeouts={"unit": 12.0}, trials=4, max_new_tokens=16))
    assert record.status is RunStatus.COMPLETE and record.judgement is not None
    failures = store.failures(record.id)
    assert [(failure.unit, failure.attempt) for failure in failures] == [(0, 1), (0, 2), (1, 1)]
    told = (
        r"rank 1 of 2 of streamk died when it was to come to the rendezvous",
        r"rank 1 died",
        r"rank 0 and rank 1 took longer than timeouts.unit \(12 s\)",
    )
    for failure, expected in zip(failures, told, strict=True):
        assert re.search(expected, failure.reason), failure.reason
        assert any(failure.reason in note for note in progress.notes)
    by_target = {verdict.variant: verdict for verdict in record.judgement.verdicts}
    assert by_target["invariant"].outcome is Outcome.DETERMINISTIC
    assert {verdict.total for verdict in by_target.values()} == {1 + 2 + 3 + 4}
    assert [result.attempt for result in store.results(record.id)] == [3, 2]
    assert all_is_given_back(cluster)


def test_a_gang_that_has_no_room_is_told_what_is_missing(cluster: Cluster) -> None:
    job = model_job(timeouts={"wait": 1.0})
    big = Capacity(device=Device.CPU, workers=1, cpus_per_worker=64, gpus_per_worker=1)
    told = r"no room for invariant within 1 s: its 2 ranks need 64 CPU and 1 GPU each, on one node\. The nodes have "
    with pytest.raises(InfrastructureError, match=told) as caught:
        Gang.assemble(cluster, job, job.targets[1], big, 0)
    assert "lower tp" in str(caught.value)
    assert not isinstance(caught.value, GangError)
    assert all_is_given_back(cluster)


def test_ranks_whose_software_differs_never_meet(cluster: Cluster, fault: Any) -> None:
    fault("prepare differ")
    with pytest.raises(
        InfrastructureError, match=r"torch: .* on rank 0 \(.*\), 1\.0 on rank 1 .*\n  driver: "
    ) as caught:
        assembled(cluster, model_job())
    assert not isinstance(caught.value, GangError)
    assert all_is_given_back(cluster)


def test_a_model_that_can_not_be_cut_so_is_the_users_to_mend(cluster: Cluster) -> None:
    job = model_job(model={"path": "/nowhere"})
    with pytest.raises(UsageError, match=r"/nowhere/config\.json can't be read"):
        assembled(cluster, job)
    assert all_is_given_back(cluster)


@pytest.mark.parametrize(("own", "mask", "index"), [("3", None, 3), ("3", "3", 0), ("3", "2,3", 1)])
def test_a_ranks_gpu_is_found_behind_any_mask(own: str, mask: str | None, index: int) -> None:
    assert gpu_index(own, mask) == index


def test_what_has_to_be_set_before_cuda_starts() -> None:
    job = model_job(targets=[{"name": "pinned", "collective": "nccl-pinned", "deterministic": True}])
    gpu = Capacity(device=Device.CUDA, workers=1, cpus_per_worker=1, gpus_per_worker=1)
    found = environment_of(job, job.targets[0], gpu)
    assert found["NCCL_ALGO"] == "allreduce:tree" and found["NCCL_PROTO"] == "Simple"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and found["PYTHONHASHSEED"] == "42"
    assert found["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] == "1"
    plain = model_job(mask_devices=True, targets=[{"name": "plain"}])
    assert environment_of(plain, plain.targets[0], gpu) == {"PYTHONHASHSEED": "42"}
