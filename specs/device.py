"""Where a job runs. By itself, for commands that must answer before pydantic is imported."""

from __future__ import annotations

from enum import StrEnum


class Device(StrEnum):
    """`auto` is CUDA where the cluster has GPUs, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
