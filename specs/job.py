"""What a user may ask for: one job, validated. `KINDS` maps `kind` to its model."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from specs.shapes import FIXED_SETS, WEIGHT_SETS, Shape, with_tokens


class Property(StrEnum):
    """What varies while the result should stay the same."""

    RUN_TO_RUN = "run_to_run"
    BATCH_INVARIANCE = "batch_invariance"
    CROSS_PROCESS = "cross_process"
    CROSS_DEVICE = "cross_device"


class Stress(StrEnum):
    """What goes on beside a trial to provoke another order of events. `quiet` is nothing."""

    QUIET = "quiet"
    COMPETING_THREADS = "competing_threads"
    RANDOM_PAUSES = "random_pauses"
    THREAD_COUNT = "thread_count"
    SHIFTED_ALLOCATIONS = "shifted_allocations"


class Dtype(StrEnum):
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Expectation(StrEnum):
    """`nondeterministic` makes a variant a control: it has to flip, or nothing is proved by the others not flipping."""

    DETERMINISTIC = "deterministic"
    NONDETERMINISTIC = "nondeterministic"
    ANY = "any"


class Device(StrEnum):
    """`auto` is CUDA where the cluster has GPUs, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


OWN_VARIANTS = ("streamk", "streamk-ordered", "persistent", "invariant")
PEER_VARIANTS = ("sgl-kernel", "deep-gemm", "torch-scaled-mm", "triton")
PYTHON_VARIANT = r"^python:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class Part(BaseModel):
    """A strict piece of a spec: unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# Strict models take an enum's member only; YAML has its string.
_Expectation = Annotated[Expectation, Field(strict=False)]
_Property = Annotated[Property, Field(strict=False)]
_Dtype = Annotated[Dtype, Field(strict=False)]
_Stress = Annotated[Stress, Field(strict=False)]


def _name_only(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Variant(Part):
    """One implementation under test. A bare name is short for `{name: NAME}`."""

    name: str = Field(description="own kernel, peer, or python:package.module:function with sgl-kernel's signature")
    expect: _Expectation | dict[_Property, _Expectation] = Field(
        default=Expectation.DETERMINISTIC,
        description="one expectation, or one for each property; properties that are left out expect `any`",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in OWN_VARIANTS + PEER_VARIANTS or re.match(PYTHON_VARIANT, name):
            return name
        allowed = ", ".join(OWN_VARIANTS + PEER_VARIANTS)
        raise ValueError(f"allowed: {allowed}, or python:package.module:function")

    def expectation(self, prop: Property) -> Expectation:
        if isinstance(self.expect, dict):
            return self.expect.get(prop, Expectation.ANY)
        return self.expect


Rows = Annotated[int, Field(ge=1, le=1 << 20)]


def _shape_from(value: object) -> object:
    if isinstance(value, str):
        return {"set": value}
    if isinstance(value, list):
        return {"mkn": value}
    return value


class ShapeEntry(Part):
    """Shapes to test: `[m, k, n]`, the name of a set, or `{set: NAME, m: [..], required: false}`."""

    mkn: Annotated[list[int], Field(min_length=3, max_length=3)] | None = Field(default=None, description="[m, k, n]")
    set: str | None = Field(default=None, description="name of a set of shapes")
    m: Annotated[list[Rows], Field(min_length=1)] | None = Field(
        default=None, description="numbers of tokens, for sets of weights"
    )
    required: bool = Field(
        default=True, description="false: verdicts are reported, and an inconclusive one does not count"
    )

    @field_validator("mkn")
    @classmethod
    def _possible(cls, mkn: list[int] | None) -> list[int] | None:
        if mkn is None:
            return None
        m, k, n = mkn
        if not 1 <= m <= 1 << 20:
            raise ValueError(f"m = {m}: allowed are 1 to {1 << 20}")
        if k < 128 or k % 128 or k > 1 << 20:
            nearest = min(1 << 20, max(128, round(k / 128) * 128))
            raise ValueError(f"k = {k}: allowed are multiples of 128 up to {1 << 20}; the nearest is {nearest}")
        if n < 8 or n % 8 or n > 1 << 20:
            nearest = min(1 << 20, max(8, round(n / 8) * 8))
            raise ValueError(f"n = {n}: allowed are multiples of 8 up to {1 << 20}; the nearest is {nearest}")
        return mkn

    @field_validator("set")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None and name not in FIXED_SETS and name not in WEIGHT_SETS:
            raise ValueError("allowed: " + ", ".join([*FIXED_SETS, *WEIGHT_SETS]))
        return name

    @model_validator(mode="after")
    def _one_way(self) -> ShapeEntry:
        if (self.mkn is None) == (self.set is None):
            raise ValueError("give either mkn: [m, k, n] or set: NAME")
        if self.set in WEIGHT_SETS and self.m is None:
            raise ValueError(f"set {self.set} holds weights (k, n): add m, for example m: [1, 64, 4096]")
        if self.set not in WEIGHT_SETS and self.m is not None:
            raise ValueError("m goes with a set of weights: " + ", ".join(WEIGHT_SETS))
        return self

    def shapes(self) -> tuple[Shape, ...]:
        if self.mkn is not None:
            return (Shape(*self.mkn),)
        assert self.set is not None
        return FIXED_SETS[self.set] if self.m is None else with_tokens(self.set, tuple(self.m))


class SpeedGate(Part):
    """Every deterministic variant has to reach `at_least` times the speed of `against`, on every shape."""

    against: str = Field(description="name of a variant of this job")
    at_least: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0, strict=False, description="median time of `against` / median time of the variant"
    )


class Gates(Part):
    accuracy: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        default=1.1,
        strict=False,
        description="largest relative error against fp64, as a multiple of what rounding to the dtype alone costs",
    )
    speed: SpeedGate | None = None


class Timeouts(Part):
    """In seconds."""

    wait: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120.0, strict=False, description="for workers to come up with the resources the job needs"
    )
    unit: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=600.0, strict=False, description="for one work unit to finish before its worker is killed"
    )


class JobBase(Part):
    """What jobs of every kind have."""

    version: Literal[1] = Field(description="version of this format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ - (at most 64)")
    description: str = Field(default="", max_length=2000)
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(default=42, description="of inputs and of every random choice")
    trials: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=50, description="executions for each group and kind of stress"
    )
    device: Device = Field(default=Device.AUTO, strict=False)
    accelerator: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,63}$", description="GPU model by Ray's label, for example H200"
    )
    timeouts: Timeouts = Timeouts()


class KernelJob(JobBase):
    """Determinism, accuracy and speed of one operation's implementations."""

    kind: Literal["kernel"]
    op: Literal["fp8_blockwise_gemm"] = Field(description="the operation under test")
    variants: Annotated[list[Annotated[Variant, BeforeValidator(_name_only)]], Field(min_length=1)]
    shapes: Annotated[list[Annotated[ShapeEntry, BeforeValidator(_shape_from)]], Field(min_length=1)]
    dtypes: Annotated[list[_Dtype], Field(min_length=1)] = [Dtype.BF16]
    properties: Annotated[list[_Property], Field(min_length=1)] = [Property.RUN_TO_RUN]
    stress: Annotated[list[_Stress], Field(min_length=1)] = [Stress.QUIET]
    processes: Annotated[int, Field(ge=2, le=64)] = Field(
        default=3, description="fresh processes that cross_process shares its trials among"
    )
    gates: Gates = Gates()

    @field_validator("variants", "shapes", "dtypes", "properties", "stress")
    @classmethod
    def _no_repeats(cls, items: list[Any]) -> list[Any]:
        keys = [item.name if isinstance(item, Variant) else item for item in items]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise ValueError(f"{key} stands here more than once: leave the others out")
        return items

    @model_validator(mode="after")
    def _speed_against_a_variant(self) -> KernelJob:
        gate = self.gates.speed
        names = [variant.name for variant in self.variants]
        if gate is not None and gate.against not in names:
            raise ValueError(f"gates.speed.against is {gate.against!r}; it has to be a variant: {', '.join(names)}")
        return self

    def expanded_shapes(self) -> dict[Shape, bool]:
        """Every shape once, in order, with whether it is required (by any entry that names it)."""
        shapes: dict[Shape, bool] = {}
        for entry in self.shapes:
            for shape in entry.shapes():
                shapes[shape] = shapes.get(shape, False) or entry.required
        return shapes


Job = KernelJob
KINDS: dict[str, type[JobBase]] = {"kernel": KernelJob}
