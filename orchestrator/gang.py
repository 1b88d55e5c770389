"""The ranks of one target: placed together, brought to agree and to meet, and lost together.

A gang goes through stages, each with a time-out of its own: a place on the cluster, processes, kernels, the rendezvous,
the model. Whatever goes wrong in one, all of the gang is torn down: ranks that wait for one that is gone would hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.answers import answer_of, first_cause, first_line, is_bad
from orchestrator.cluster import AGREE_ON, PREPARE_TIMEOUT_S, Cluster, check_agreement
from specs.device import Device
from specs.errors import InfrastructureError, UsageError
from specs.model_job import CollectiveName, ModelJob, ModelTarget, Pack
from specs.result import Environment
from specs.unit import Capacity, ModelUnit, WorkUnit
from workers.failure import Failure

if TYPE_CHECKING:
    from workers.runner import Known

GANG_AGREES_ON = (*AGREE_ON, "device", "driver", "kernel_build")
"""Ranks add up what they computed, so they have to be of one stratum too."""
STRATEGIES = {Pack.NODE: "STRICT_PACK", Pack.SPREAD: "SPREAD"}
START_TIMEOUT_S = 120.0
"""For processes to start on a place that is theirs already."""


class GangError(InfrastructureError):
    """A rank died, failed or got stuck while its gang was assembled; another attempt may go well."""


class Gang:
    """Ranks that are up, with the model loaded. ``slot`` counts gangs from 0."""

    def __init__(self, target: ModelTarget, slot: int, group: Any) -> None:
        self.slot, self.target = slot, target.name
        self.environments: list[Environment] = []
        self._group, self._ranks = group, list[Any]()

    @classmethod
    def assemble(cls, cluster: Cluster, job: ModelJob, target: ModelTarget, capacity: Capacity, slot: int) -> Gang:
        """Start the ranks of a target and wait until each has its share of the model.

        Raises InfrastructureError, with what is missing, where the cluster has no room for them or where their
        software differs; UsageError for a model that can't be loaded; GangError where a rank died or got stuck.
        """
        import ray

        from workers.rank import Rank

        gang = cls(target, slot, _place(cluster, job, target, capacity))
        try:
            remote: Any = ray.remote(Rank)
            for place in range(target.tp):
                options = _options(job, target, capacity, gang._group, place)
                gang._ranks.append(remote.options(**options).remote(job, target.name, place, capacity.device))
            gang._assemble(job)
        except BaseException:
            gang.dismiss()
            raise
        return gang

    def fits(self, unit: WorkUnit) -> bool:
        return isinstance(unit, ModelUnit) and unit.variant == self.target

    def start(self, unit: WorkUnit, attempt: int, known: Known) -> list[Any]:
        return [rank.run.remote(unit, attempt, known) for rank in self._ranks]

    def member(self, place: int) -> str:
        return f"rank {place}"

    def dismiss(self) -> None:
        """Kill all ranks, and give their places back. It is enough to do so for one that is stuck."""
        import ray

        for rank in self._ranks:
            ray.kill(rank)
        _release(self._group)

    def _assemble(self, job: ModelJob) -> None:
        limits = job.timeouts
        self._all("start", START_TIMEOUT_S, lambda rank: rank.ping.remote())
        self.environments = self._all("build kernels", PREPARE_TIMEOUT_S, lambda rank: rank.prepare.remote())
        check_agreement({f"rank {i}": found for i, found in enumerate(self.environments)}, GANG_AGREES_ON)
        meeting = self._first("open the rendezvous", limits.rendezvous, self._ranks[0].open_rendezvous.remote())
        # To arrive takes no other rank, so who is late now is who is missing.
        self._all("come to the rendezvous", limits.rendezvous, lambda rank: rank.arrive.remote(*meeting))
        self._all("join the others", limits.rendezvous, lambda rank: rank.join.remote(limits.rendezvous))
        self._all("load the model", limits.load, lambda rank: rank.load.remote())

    def _first(self, doing: str, timeout_s: float, ref: Any) -> Any:
        return self._answers(doing, timeout_s, [ref])[0]

    def _all(self, doing: str, timeout_s: float, call: Callable[[Any], Any]) -> list[Any]:
        return self._answers(doing, timeout_s, [call(rank) for rank in self._ranks])

    def _answers(self, doing: str, timeout_s: float, refs: list[Any]) -> list[Any]:
        """What every rank answers. Raises UsageError or GangError as soon as one can't."""
        import ray

        answers: dict[Any, Any] = {}
        deadline = time.monotonic() + timeout_s
        while len(answers) < len(refs):
            missing = [ref for ref in refs if ref not in answers]
            ready, _ = ray.wait(missing, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = " and ".join(f"rank {place}" for place, ref in enumerate(refs) if ref not in answers)
                raise GangError(f"{late} of {len(self._ranks)} of {self.target} did not {doing} within {timeout_s:g} s")
            answers |= {ref: answer_of(ref) for ref in ready}
            if any(is_bad(answer) for answer in answers.values()):
                raise self._failure(doing, *first_cause(refs, answers))
        return [answers[ref] for ref in refs]

    def _failure(self, doing: str, place: int, cause: Failure | Exception) -> InfrastructureError | UsageError:
        who = f"rank {place} of {len(self._ranks)} of {self.target}"
        if not isinstance(cause, Failure):
            return GangError(f"{who} died when it was to {doing}: {first_line(cause)}")
        if cause.usage:
            return UsageError(cause.reason)
        if not cause.retry:
            return InfrastructureError(f"{who} could not {doing}: {cause.reason}")
        return GangError(f"{who} could not {doing}: {cause.reason}")


def _place(cluster: Cluster, job: ModelJob, target: ModelTarget, capacity: Capacity) -> Any:
    """A placement group that is ready: Ray itself would wait for ever, without a word, for one that can't be."""
    import ray
    from ray.util.placement_group import placement_group

    bundle = {"CPU": capacity.cpus_per_worker}
    if capacity.gpus_per_worker:
        bundle["GPU"] = capacity.gpus_per_worker
    options: dict[str, Any] = {}
    if job.accelerator is not None:
        options["bundle_label_selector"] = [{"ray.io/accelerator-type": job.accelerator}] * target.tp
    group = placement_group([bundle] * target.tp, strategy=STRATEGIES[job.pack], **options)
    ready, _ = ray.wait([group.ready()], timeout=job.timeouts.wait)
    if ready:
        return group
    _release(group)
    raise InfrastructureError(_no_room(cluster, job, target, bundle, ray.available_resources()))


def _no_room(
    cluster: Cluster, job: ModelJob, target: ModelTarget, bundle: dict[str, float], free: dict[str, float]
) -> str:
    each = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    labelled = f" labelled {job.accelerator}" if job.accelerator else ""
    where = "on one node" if job.pack is Pack.NODE else "over all nodes"
    nodes = "; ".join(
        ", ".join(f"{node['Resources'].get(name, 0):g} {name}" for name in bundle) for node in cluster.nodes
    )
    left = ", ".join(f"{free.get(name, 0):g} {name}" for name in bundle)
    remedy = "lower tp, add nodes, wait for other jobs to end, or raise timeouts.wait"
    if job.pack is Pack.NODE and len(cluster.nodes) > 1:
        remedy = f"set pack: spread, {remedy}"
    return (
        f"no room for {target.name} within {job.timeouts.wait:g} s: its {target.tp} ranks need {each} each{labelled}, "
        f"{where}. The nodes have {nodes}, of which {left} are free now; {remedy}"
    )


def _options(job: ModelJob, target: ModelTarget, capacity: Capacity, group: Any, place: int) -> dict[str, Any]:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return {
        "num_cpus": capacity.cpus_per_worker,
        "num_gpus": capacity.gpus_per_worker,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
        "runtime_env": {"env_vars": environment_of(job, target, capacity)},
    }


def environment_of(job: ModelJob, target: ModelTarget, capacity: Capacity) -> dict[str, str]:
    """Variables that have to be set before CUDA and NCCL start."""
    from workers.model.collectives import PINNED_NCCL

    variables = {"PYTHONHASHSEED": str(job.seed)}
    if capacity.gpus_per_worker and not job.mask_devices:
        # NCCL has been seen to choose other paths between ranks that are masked, and symmetric memory refuses ranks
        # that all call their device 0.
        variables["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
    if capacity.device is Device.CUDA and target.deterministic:
        # Without it cuBLAS may pick another split of K from one call to the next, when streams share its workspace.
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if target.collective is CollectiveName.NCCL_PINNED:
        variables |= PINNED_NCCL
    return variables


def _release(group: Any) -> None:
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)
