"""What the farm starts on Ray for a model job: one process for each rank of a target. Failures travel as data."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from specs.device import Device
from specs.errors import InfrastructureError
from specs.model_job import ModelJob
from specs.result import Environment
from specs.unit import ModelUnit
from workers.failure import told
from workers.runner import Known, Outputs

if TYPE_CHECKING:
    import torch

    from workers.model_runner import ModelRunner

COLLECTIVE_TIMEOUT_S = 24 * 3600.0
"""Of torch's own watchdog. The farm's time-outs come long before, and know which rank was late."""


class Rank:
    """Rank ``rank`` of a target, called through its stages in their order; see ``orchestrator.gang``."""

    def __init__(self, job: ModelJob, target: str, rank: int, device: Device) -> None:
        self._job, self._target, self._rank = job, job.target(target), rank
        self._on_cuda = device is Device.CUDA
        self._store: Any = None
        self._runner: ModelRunner | None = None

    def ping(self) -> bool:
        """Answers as soon as the process is there."""
        return True

    @told
    def prepare(self) -> Environment:
        """Build or load the kernels; what comes back is compared with the other ranks'."""
        import torch

        from workers.build import build
        from workers.environment import capture

        if self._on_cuda:
            torch.cuda.set_device(self.device)
        return capture(self.device, build("cuda" if self._on_cuda else "cpu").key)

    @told
    def open_rendezvous(self) -> tuple[str, int]:
        """Of rank 0: this node's address, and a port that was free and is held from now on."""
        import ray

        address = ray.util.get_node_ip_address()
        self._store = _tcp_store()(address, 0, self._target.tp, is_master=True, wait_for_workers=False)
        return address, self._store.port

    @told
    def arrive(self, address: str, port: int) -> bool:
        """Reach rank 0's store; no other rank is waited for."""
        if self._store is None:
            self._store = _tcp_store()(address, port, self._target.tp, is_master=False, wait_for_workers=False)
        self._store.set(f"rank {self._rank}", "here")
        return True

    @told
    def join(self, timeout_s: float) -> bool:
        """Make the process group, and see that all ranks add up."""
        import torch
        import torch.distributed as dist

        assert self._store is not None
        self._store.set_timeout(timedelta(seconds=timeout_s))
        dist.init_process_group(
            "nccl" if self._on_cuda else "gloo",
            store=self._store,
            rank=self._rank,
            world_size=self._target.tp,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            device_id=self.device if self._on_cuda else None,
        )
        total = torch.ones(1, device=self.device)
        dist.all_reduce(total)
        if int(total) != self._target.tp:
            raise InfrastructureError(f"the ranks' ones add up to {float(total):g}, not to {self._target.tp}")
        return True

    @told
    def load(self) -> bool:
        """Build this rank's share of the model, and the engine."""
        from workers.model_runner import ModelRunner

        self._runner = ModelRunner(self._job, self._target, self._rank, self.device)
        return True

    @told
    def run(self, unit: ModelUnit, attempt: int, known: Known) -> Outputs | None:
        """Run one unit beside the other ranks; rank 0's outputs are the gang's."""
        assert self._runner is not None
        outputs = self._runner.run(unit, attempt, known)
        return outputs if self._rank == 0 else None

    @property
    def device(self) -> torch.device:
        """The one that Ray gave this process."""
        import ray
        import torch

        if not self._on_cuda:
            return torch.device("cpu")
        (own,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return torch.device("cuda", gpu_index(own, os.environ.get("CUDA_VISIBLE_DEVICES")))


def gpu_index(own: str, mask: str | None) -> int:
    """What CUDA calls the GPU with Ray's id ``own`` in a process that sees those of ``mask``, or all without one."""
    return int(own) if mask is None else mask.split(",").index(own)


def _tcp_store() -> Any:
    import torch.distributed

    distributed: Any = torch.distributed
    return distributed.TCPStore
