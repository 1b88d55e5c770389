"""What jobs of all kinds share: the words of a spec, and the strict models that it is made of.

Messages of the ValueErrors here stand alone: they have the value given, what is allowed and the nearest of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails

from specs.device import Device
from specs.errors import nearest, shown


class Property(StrEnum):
    """What varies while the result should stay the same."""

    RUN_TO_RUN = "run_to_run"
    BATCH_INVARIANCE = "batch_invariance"
    CROSS_PROCESS = "cross_process"
    CROSS_DEVICE = "cross_device"
    SM_COUNT = "sm_count"
    PREFILL_VS_DECODE = "prefill_vs_decode"
    CACHE_CONSISTENCY = "cache_consistency"
    TP_INVARIANCE = "tp_invariance"


class Mode(StrEnum):
    """How a trial, which has a batch of b rows, sends its requests to a model."""

    SINGLE = "single"
    """Prompt 1, b times."""
    MIXED = "mixed"
    """Prompt 1, prompt 2 and, beyond 10 rows, the long prompt."""
    PREFIX = "prefix"
    """Beginnings of the long prompt, after a flush."""
    RADIX_CACHE = "radix_cache"
    """The same ids with the prefix cache warm, and after a flush."""
    P_VS_D = "p_vs_d"
    """Logprobs of tokens as they were decoded, and of the same tokens as a prompt."""
    NEIGHBOUR = "neighbour"
    """One prompt, while what runs beside it varies in number, length and phase. The farm's own."""


class Stress(StrEnum):
    """What goes on beside a trial to provoke another order of events. `quiet` is nothing."""

    QUIET = "quiet"
    SHIFTED_ALLOCATIONS = "shifted_allocations"
    POISONED_MEMORY = "poisoned_memory"
    COMPETING_THREADS = "competing_threads"
    RANDOM_PAUSES = "random_pauses"
    THREAD_COUNT = "thread_count"
    CO_RESIDENT_LOAD = "co_resident_load"
    OCCUPIED_SMS = "occupied_sms"
    COLD_CLOCK = "cold_clock"


class Dtype(StrEnum):
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Expectation(StrEnum):
    """`nondeterministic` makes a variant a control: it has to flip, or nothing is proved by the others not flipping."""

    DETERMINISTIC = "deterministic"
    NONDETERMINISTIC = "nondeterministic"
    ANY = "any"


_ANYWHERE = (Stress.QUIET, Stress.SHIFTED_ALLOCATIONS, Stress.POISONED_MEMORY)
STRESS_ON = {
    Device.CPU: (*_ANYWHERE, Stress.COMPETING_THREADS, Stress.RANDOM_PAUSES, Stress.THREAD_COUNT),
    Device.CUDA: (*_ANYWHERE, Stress.CO_RESIDENT_LOAD, Stress.OCCUPIED_SMS, Stress.COLD_CLOCK),
}
"""Which kinds of stress a device knows."""

OWN_VARIANTS = ("streamk", "streamk-ordered", "persistent", "invariant")
PEER_VARIANTS = ("sgl-kernel", "deep-gemm", "torch-scaled-mm", "triton")
PYTHON_VARIANT = r"^python:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
MOST = 1 << 20
"""Of rows, columns and depth of a GEMM."""


class Part(BaseModel):
    """A strict piece of a spec: unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def wrong(title: str, faults: Iterable[tuple[tuple[str | int, ...], object, str]]) -> ValidationError:
    """Faults (where below this value, what was given, the message) that a validator of the whole found in its parts."""
    details = [
        InitErrorDetails(type="value_error", loc=loc, input=given, ctx={"error": ValueError(message)})
        for loc, given, message in faults
    ]
    return ValidationError.from_exception_data(title, details)


def _known_variant(name: str) -> str:
    known = OWN_VARIANTS + PEER_VARIANTS
    if name in known or re.fullmatch(PYTHON_VARIANT, name):
        return name
    raise ValueError(
        f"{shown(name)}: allowed: {', '.join(known)} or python:package.module:function{nearest(name, known)}"
    )


GivenExpectation = Annotated[Expectation, Field(strict=False)]
"""Strict models take an enum's member only; YAML has its string."""

VariantName = Annotated[
    str,
    AfterValidator(_known_variant),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [*OWN_VARIANTS, *PEER_VARIANTS]},
                {"type": "string", "pattern": PYTHON_VARIANT, "description": "python:package.module:function"},
            ]
        }
    ),
]


class Timeouts(Part):
    """In seconds."""

    wait: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120.0, description="for workers to come up with the resources the job needs"
    )
    unit: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=600.0, description="for one work unit to finish before its worker is killed"
    )


class JobBase(Part):
    """What jobs of every kind have."""

    version: Literal[1] = Field(description="version of this format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ - (at most 64)")
    description: str = Field(default="", max_length=2000)
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = Field(
        default=42, description="of inputs and of every random choice"
    )
    trials: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=50, description="executions for each group and kind of stress"
    )
    device: Device = Field(default=Device.AUTO, strict=False)
    accelerator: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,63}$", description="GPU model by Ray's label, for example H200"
    )
    timeouts: Timeouts = Timeouts()
