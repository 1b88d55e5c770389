"""The farm's side of Ray: an embedded one or a cluster's, and the workers on it."""

from __future__ import annotations

import math
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from specs.device import Device
from specs.errors import InfrastructureError, UsageError
from specs.job import JobBase
from specs.model_job import ModelJob
from specs.result import Environment
from specs.unit import Capacity, KernelUnit, WorkUnit

if TYPE_CHECKING:
    import ray

    from workers.runner import Known

REACH_TIMEOUT_S = 10.0
PREPARE_TIMEOUT_S = 900.0
"""For building the kernels on a worker that has none in its cache."""

AGREE_ON = ("python", "torch", "ray", "packages", "cuda", "nccl")
"""Has to be the same on all workers of a run. Device, driver and kernel build make strata instead."""


class Crew(Protocol):
    """What runs units one after the other: one worker, or a gang of ranks. ``slot`` counts from 0."""

    @property
    def slot(self) -> int: ...

    @property
    def environments(self) -> list[Environment]: ...

    def fits(self, unit: WorkUnit) -> bool:
        """Whether it can run this unit as it is."""

    def start(self, unit: WorkUnit, attempt: int, known: Known) -> list[Any]:
        """Ray's references to the answers of all its processes, that with the result first."""

    def member(self, place: int) -> str:
        """How messages call the process of the answer at this place."""

    def dismiss(self) -> None:
        """Kill it, and whatever it is doing."""


@dataclass
class Hired:
    """A worker that is up. ``slot`` counts from 0."""

    slot: int
    actor: Any
    environment: Environment

    @property
    def environments(self) -> list[Environment]:
        return [self.environment]

    def fits(self, unit: WorkUnit) -> bool:
        return isinstance(unit, KernelUnit)

    def start(self, unit: WorkUnit, attempt: int, known: Known) -> list[Any]:
        return [self.actor.run.remote(unit, attempt, known)]

    def member(self, place: int) -> str:
        return "its worker"

    def dismiss(self) -> None:
        import ray

        ray.kill(self.actor)


class Cluster:
    """Ray, as the farm uses it. Open with ``connect``."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self.nodes = nodes

    def capacity(self, job: JobBase) -> Capacity:
        """Workers that the cluster has room for in all. Raises UsageError where it can't run the job's device."""
        ranks = max(target.tp for target in job.targets) if isinstance(job, ModelJob) else 1
        nodes = [node for node in self.nodes if _has_label(node, job.accelerator)]
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in nodes)
        device = job.device
        if device is Device.AUTO:
            device = Device.CUDA if gpus or job.accelerator else Device.CPU
        if device is Device.CPU:
            if job.accelerator is not None:
                raise UsageError(f"accelerator is {job.accelerator}, and device is cpu: drop one of them")
            cores = [node["Resources"]["CPU"] for node in self.nodes if node["Resources"].get("CPU", 0) >= 1]
            if not cores:
                raise UsageError("the cluster has no CPU to run on: add a node with num_cpus of at least 1")
            # Ranks of one node share its cores, since they wait for each other; Ray takes no 1.5, but it takes 0.5.
            share = min(cores) / ranks
            each = max(0.01, math.floor(share) if share >= 1 else math.floor(share * 100) / 100)
            return Capacity(device=device, workers=len(cores), cpus_per_worker=each, gpus_per_worker=0)
        if not gpus:
            wanted = f"a GPU labelled {job.accelerator}" if job.accelerator else "a GPU"
            raise UsageError(f"the job wants {wanted} and the cluster has none; set device: cpu, or add a GPU node")
        return Capacity(device=device, workers=max(1, gpus // ranks), cpus_per_worker=1, gpus_per_worker=1)

    def hire(self, capacity: Capacity, job: JobBase, slots: list[int]) -> list[Hired]:
        """Start workers and wait until they have built their kernels.

        Raises InfrastructureError, with what is missing, where they don't come up within the job's time-out.
        """
        import ray

        from workers.actor import Worker

        options: dict[str, Any] = {"num_cpus": capacity.cpus_per_worker, "num_gpus": capacity.gpus_per_worker}
        if job.accelerator is not None:
            options["label_selector"] = {"ray.io/accelerator-type": job.accelerator}
        remote: Any = ray.remote(Worker)
        actors = [remote.options(**options).remote(capacity.device) for _ in slots]
        self._await_resources(actors, capacity, job.timeouts.wait)
        hired = []
        prepared = [actor.prepare.remote() for actor in actors]
        for slot, actor, answer in zip(slots, actors, _get(prepared, PREPARE_TIMEOUT_S, "build kernels"), strict=True):
            if not isinstance(answer, Environment):
                raise (UsageError if answer.usage else InfrastructureError)(f"worker {slot}: {answer.reason}")
            hired.append(Hired(slot, actor, answer))
        return hired

    def _await_resources(self, actors: list[Any], capacity: Capacity, timeout_s: float) -> None:
        import ray

        pings = [actor.ping.remote() for actor in actors]
        ready, late = ray.wait(pings, num_returns=len(pings), timeout=timeout_s)
        if late:
            for actor in actors:
                ray.kill(actor)
            free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
            raise InfrastructureError(
                f"{len(late)} of {len(pings)} workers did not start within {timeout_s:g} s: each needs "
                f"{capacity.cpus_per_worker:g} CPU and {capacity.gpus_per_worker:g} GPU, and the cluster has {free} "
                "free now; wait for other jobs to end, or raise timeouts.wait"
            )
        _get(ready, timeout_s, "start")


def local() -> Cluster:
    """This machine, as the one node of an embedded Ray, without starting it."""
    resources: dict[str, float] = {"CPU": len(os.sched_getaffinity(0))}
    gpus = _local_gpus()
    if gpus:
        resources["GPU"] = len(gpus)
    labels = {"ray.io/accelerator-type": gpus[0]} if gpus else {}
    return Cluster([{"Alive": True, "Resources": resources, "Labels": labels}])


@contextmanager
def connect(address: str | None, job: JobBase | None = None) -> Iterator[Cluster]:
    """Join the cluster at ``address``, or start a Ray of our own and take it down again.

    Raises InfrastructureError where the cluster can't be reached, and UsageError for a ``job`` that this machine can't
    run, before a Ray is started on it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        here = local()
        if job is not None:
            here.capacity(job)
        # Ray would write a token file to ~/.ray for a cluster that lives as long as this command.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            node = here.nodes[0]
            cpus, gpus = node["Resources"]["CPU"], node["Resources"].get("GPU", 0)
            ray.init(num_cpus=cpus, num_gpus=gpus, labels=node["Labels"], include_dashboard=False, **quiet)
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the cluster at {address} can't be joined" if address else "an embedded Ray can't be started"
        raise InfrastructureError(f"{where}: {error}") from error
    try:
        yield Cluster([node for node in ray.nodes() if node["Alive"]])
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would go on trying for many minutes. Raises OSError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()


def check_agreement(environments: Mapping[str, Environment], agree_on: Sequence[str] = AGREE_ON) -> None:
    """Raise InfrastructureError with the difference where workers' software is not the same; keys are their names."""
    (first, ours), *others = environments.items()
    for name, theirs in others:
        lines = [
            f"  {what}: {getattr(ours, what)} on {first} ({ours.node}), "
            f"{getattr(theirs, what)} on {name} ({theirs.node})"
            for what in agree_on
            if getattr(ours, what) != getattr(theirs, what)
        ]
        if lines:
            raise InfrastructureError("workers differ, so their samples can't be compared:\n" + "\n".join(lines))


def _local_gpus() -> list[str]:
    """Of each GPU that this process may see, the model as Ray labels it: H200 for 'NVIDIA H200'."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = names if mask is None else list(takewhile(_is_device, mask.split(",")))
    return [name.removeprefix("NVIDIA ").split()[0] for name in names][: len(visible)]


def _is_device(entry: str) -> bool:
    """CUDA takes the entries of CUDA_VISIBLE_DEVICES up to the first that is none, such as -1."""
    return bool(entry.strip()) and not entry.strip().startswith("-")


def _has_label(node: dict[str, Any], accelerator: str | None) -> bool:
    return accelerator is None or node.get("Labels", {}).get("ray.io/accelerator-type") == accelerator


def _get(refs: list[ray.ObjectRef[Any]], timeout_s: float, doing: str) -> list[Any]:
    import ray

    started = time.monotonic()
    try:
        answers: list[Any] = ray.get(refs, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise InfrastructureError(f"a worker took more than {timeout_s:g} s to {doing}") from error
    except ray.exceptions.RayActorError as error:
        after = time.monotonic() - started
        raise InfrastructureError(f"a worker died after {after:.1f} s, while it was to {doing}: {error}") from error
    return answers
