from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import Cluster, check_agreement, connect, local
from specs.device import Device
from specs.errors import InfrastructureError, UsageError
from tests.orchestrator.builders import environment, job


def node(cpus: float, gpus: int = 0, accelerator: str | None = None) -> dict[str, Any]:
    resources = {"CPU": cpus} | ({"GPU": float(gpus)} if gpus else {})
    return {"Resources": resources, "Labels": {"ray.io/accelerator-type": accelerator} if accelerator else {}}


def test_a_worker_for_each_gpu() -> None:
    capacity = Cluster([node(32, 4, "H200"), node(16, 2, "H100"), node(8)]).capacity(job())
    assert (capacity.device, capacity.workers, capacity.gpus_per_worker) == (Device.CUDA, 6, 1)


def test_the_label_chooses_the_gpus() -> None:
    cluster = Cluster([node(32, 4, "H200"), node(16, 2, "H100")])
    assert cluster.capacity(job(accelerator="H100")).workers == 2
    with pytest.raises(UsageError, match="a GPU labelled B200 and the cluster has none"):
        cluster.capacity(job(accelerator="B200"))
    with pytest.raises(UsageError, match="accelerator is H100, and device is cpu: drop one of them"):
        cluster.capacity(job(accelerator="H100", device="cpu"))


@pytest.mark.parametrize(
    ("mask", "seen"), [(None, 3), ("", 0), ("-1", 0), ("0,-1,1", 1), ("2, 0", 2), ("GPU-a,GPU-b", 2)]
)
def test_gpus_that_are_hidden_are_not_there(
    mask: str | None, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nfor i in 1 2 3; do echo NVIDIA H200; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if mask is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert local().nodes[0]["Resources"].get("GPU", 0) == seen


def test_without_gpus_a_worker_for_each_node() -> None:
    capacity = Cluster([node(8), node(4)]).capacity(job())
    assert (capacity.device, capacity.workers, capacity.cpus_per_worker) == (Device.CPU, 2, 4)
    assert Cluster([node(8, 1, "H200")]).capacity(job(device="cpu")).device is Device.CPU


def test_gpus_that_are_wanted_and_missing_are_told() -> None:
    with pytest.raises(UsageError, match="set device: cpu, or add a GPU node"):
        Cluster([node(8)]).capacity(job(device="cuda"))


def test_this_machine_is_what_an_embedded_ray_will_be(cluster: Cluster) -> None:
    assert local().capacity(job()) == cluster.capacity(job())


def test_workers_whose_software_differs_are_told_apart() -> None:
    first = environment()
    check_agreement({"worker 0": first, "worker 1": environment(device="NVIDIA H200", visible_devices="1")})
    with pytest.raises(
        InfrastructureError, match=r"torch: 2\.13\.0 on worker 0 \(node-1\), 2\.11\.0 on worker 1 \(n2\)"
    ):
        check_agreement({"worker 0": first, "worker 1": environment(torch="2.11.0", node="n2")})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_told_at_once(address: str) -> None:
    with pytest.raises(InfrastructureError, match=f"the cluster at {address} can't be joined"), connect(address):
        pass
