"""Where a worker runs: what has to be the same before samples may be compared."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs.result import Environment

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "determinism-farm",
    "numpy",
    "triton",
    "sglang-kernel",
    "sgl-deep-gemm",
    "nvidia-cutlass",
    "nvidia-nccl-cu13",
    "nvidia-cublas",
)
VARIABLE_PREFIXES = ("CUDA_", "NCCL_", "CUBLAS_", "OMP_", "MKL_", "TORCH_", "SGLANG_", "PYTHONHASHSEED", "FARM_CPU_ISA")


def capture(device: torch.device, kernel_build: str) -> Environment:
    """This process's environment. ``kernel_build`` is the key of the kernels' build."""
    import torch

    nccl: Any = torch.cuda.nccl
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return Environment(
        node=socket.gethostname(),
        cpu=_cpu_model(),
        device=properties.name if properties else "cpu",
        device_uuid=str(properties.uuid) if properties else None,
        driver=_driver() if cuda else None,
        cuda=torch.version.cuda,
        nccl=".".join(map(str, nccl.version())) if cuda else None,
        python=platform.python_version(),
        torch=torch.__version__,
        ray=_version_of("ray") or "-",
        packages={name: found for name in PACKAGES if (found := _version_of(name)) is not None},
        kernel_build=kernel_build,
        git_commit=_git_commit(),
        variables={key: value for key, value in sorted(os.environ.items()) if key.startswith(VARIABLE_PREFIXES)},
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _driver() -> str | None:
    answer = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0].strip() if answer else None


def _git_commit() -> str | None:
    """Of the source tree that the farm runs from; None where it was installed from a wheel."""
    here = str(Path(__file__).parent)
    return _output_of("git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--match=")


def _output_of(*command: str) -> str | None:
    """What a program that may not be there prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
