"""What a user may ask for: one job, validated. `KINDS` maps `kind` to its model.

Messages of the ValueErrors here stand alone: they have the value given, what is allowed and the nearest of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from specs.errors import nearest, shown
from specs.shapes import FIXED_SETS, WEIGHT_SETS, Shape, with_tokens


class Property(StrEnum):
    """What varies while the result should stay the same."""

    RUN_TO_RUN = "run_to_run"
    BATCH_INVARIANCE = "batch_invariance"
    CROSS_PROCESS = "cross_process"
    CROSS_DEVICE = "cross_device"
    SM_COUNT = "sm_count"


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


class Device(StrEnum):
    """`auto` is CUDA where the cluster has GPUs, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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


# Strict models take an enum's member only; YAML has its string.
_Expectation = Annotated[Expectation, Field(strict=False)]
_Property = Annotated[Property, Field(strict=False)]
_Dtype = Annotated[Dtype, Field(strict=False)]
_Stress = Annotated[Stress, Field(strict=False)]


def _wrong(title: str, faults: Iterable[tuple[tuple[str | int, ...], object, str]]) -> ValidationError:
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


class Variant(Part):
    """One implementation under test. A bare name is short for `{name: NAME}`."""

    name: VariantName = Field(
        description="own kernel, peer, or python:package.module:function with sgl-kernel's signature"
    )
    expect: _Expectation | dict[_Property, _Expectation] = Field(
        default=Expectation.DETERMINISTIC,
        description="one expectation, or one for each property; properties that are left out expect `any`",
    )

    def expectation(self, prop: Property) -> Expectation:
        if isinstance(self.expect, dict):
            return self.expect.get(prop, Expectation.ANY)
        return self.expect


def _possible(mkn: list[int]) -> list[int]:
    """Raises ValueError naming every one of m, k and n that the kernels' blocks and alignment rule out."""
    faults = []
    for name, size, step in zip("mkn", mkn, (1, 128, 8), strict=True):
        if size < step or size % step or size > MOST:
            allowed = f"multiples of {step} up to {MOST}" if step > 1 else f"1 to {MOST}"
            closest = min(MOST, max(step, (size + step // 2) // step * step))
            faults.append(f"{name} = {size}: allowed: {allowed}; the nearest is {closest}")
    if faults:
        raise ValueError("; ".join(faults))
    return mkn


def _known_set(name: str) -> str:
    known = [*FIXED_SETS, *WEIGHT_SETS]
    if name in known:
        return name
    raise ValueError(f"{shown(name)}: allowed: {', '.join(known)}{nearest(name, known)}")


Rows = Annotated[int, Field(ge=1, le=MOST)]
SetName = Annotated[
    str, AfterValidator(_known_set), WithJsonSchema({"type": "string", "enum": [*FIXED_SETS, *WEIGHT_SETS]})
]
Mkn = Annotated[
    list[int],
    Field(min_length=3, max_length=3),
    AfterValidator(_possible),
    WithJsonSchema(
        {
            "type": "array",
            "description": "[m, k, n]",
            "prefixItems": [
                {"type": "integer", "minimum": 1, "maximum": MOST},
                {"type": "integer", "minimum": 128, "maximum": MOST, "multipleOf": 128},
                {"type": "integer", "minimum": 8, "maximum": MOST, "multipleOf": 8},
            ],
            "minItems": 3,
            "maxItems": 3,
        }
    ),
]


class ShapeEntry(Part):
    """Shapes to test: `[m, k, n]`, the name of a set, or `{set: NAME, m: [..], required: false}`."""

    mkn: Mkn | None = Field(default=None, description="[m, k, n]; k a multiple of 128, n of 8")
    set: SetName | None = Field(default=None, description="name of a set of shapes")
    m: Annotated[list[Rows], Field(min_length=1)] | None = Field(
        default=None, description="numbers of tokens, for sets of weights"
    )
    required: bool = Field(
        default=True, description="false: verdicts are reported, and an inconclusive one does not count"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ShapeEntry:
        if (self.mkn is None) == (self.set is None):
            given = "neither" if self.mkn is None else "both"
            raise ValueError(f"{given} given: allowed: either mkn: [m, k, n] or set: NAME")
        if self.set in WEIGHT_SETS and self.m is None:
            raise ValueError(f"{self.set} is a set of weights (k, n): add m, for example m: [1, 64, 4096]")
        if self.set not in WEIGHT_SETS and self.m is not None:
            raise ValueError(f"m is given: allowed only with a set of weights: {', '.join(WEIGHT_SETS)}")
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
        default=1.0, description="median time of `against` / median time of the variant"
    )


class Gates(Part):
    accuracy: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        default=1.1,
        description="largest relative error against fp64, as a multiple of what rounding to the dtype alone costs",
    )
    speed: SpeedGate | None = None


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


def _long_variant(entry: object) -> object:
    return {"name": entry} if isinstance(entry, str) else entry


def _long_shape(entry: object) -> object:
    if isinstance(entry, str):
        return {"set": entry}
    return {"mkn": entry} if isinstance(entry, list) else entry


SHORT_FORMS: dict[str, Callable[[object], object]] = {"variants": _long_variant, "shapes": _long_shape}
"""For each list whose entries have a short form: what makes an entry long, if it is short."""


class KernelJob(JobBase):
    """Determinism, accuracy and speed of one operation's implementations."""

    kind: Literal["kernel"]
    op: Literal["fp8_blockwise_gemm"] = Field(description="the operation under test")
    variants: Annotated[
        list[Annotated[Variant, BeforeValidator(_long_variant, json_schema_input_type=VariantName | Variant)]],
        Field(min_length=1, description="what is tested; a bare name is short for {name: NAME}"),
    ]
    shapes: Annotated[
        list[Annotated[ShapeEntry, BeforeValidator(_long_shape, json_schema_input_type=Mkn | SetName | ShapeEntry)]],
        Field(min_length=1, description="[m, k, n], names of sets of shapes, or {set: NAME, m: [..], required: false}"),
    ]
    dtypes: Annotated[list[_Dtype], Field(min_length=1)] = [Dtype.BF16]
    properties: Annotated[list[_Property], Field(min_length=1)] = [Property.RUN_TO_RUN]
    stress: Annotated[list[_Stress], Field(min_length=1)] = [Stress.QUIET]
    batches: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="trials of batch_invariance, where they should not be as many as `trials`"
    )
    processes: Annotated[int, Field(ge=2, le=64)] = Field(
        default=3, description="fresh processes that cross_process shares its trials among"
    )
    gates: Gates = Gates()

    @field_validator("variants", "shapes", "dtypes", "properties", "stress")
    @classmethod
    def _no_repeats(cls, items: list[Any]) -> list[Any]:
        first: dict[str, int] = {}
        faults: list[tuple[tuple[str | int, ...], object, str]] = []
        for place, item in enumerate(items):
            named = item.name if isinstance(item, Variant) else str(item)
            key = item.model_dump_json() if isinstance(item, ShapeEntry) else named
            if first.setdefault(key, place) != place:
                what = "this entry" if isinstance(item, ShapeEntry) else shown(key)
                faults.append(((place,), item, f"{what} is there already, at [{first[key]}]: leave one out"))
        if faults:
            raise _wrong(cls.__name__, faults)
        return items

    @model_validator(mode="after")
    def _speed_against_a_variant(self) -> KernelJob:
        gate = self.gates.speed
        names = [variant.name for variant in self.variants]
        if gate is not None and gate.against not in names:
            message = f"{shown(gate.against)}: allowed: the variants of this job: {', '.join(names)}"
            message += nearest(gate.against, names)
            raise _wrong(type(self).__name__, [(("gates", "speed", "against"), gate.against, message)])
        return self

    def summary(self) -> str:
        """What is tested, in one line."""
        counts = {
            "variant": len(self.variants),
            "shape": len(self.expanded_shapes()),
            "dtype": len(self.dtypes),
            "property": len(self.properties),
            "kind of stress": len(self.stress),
        }
        plurals = {"property": "properties", "kind of stress": "kinds of stress"}
        product = " x ".join(
            f"{count} {noun if count == 1 else plurals.get(noun, noun + 's')}" for noun, count in counts.items()
        )
        return f"{self.op}, {product}, {self.trials} trials of each"

    def trials_of(self, prop: Property) -> int:
        """Executions for each group and kind of stress."""
        return self.batches or self.trials if prop is Property.BATCH_INVARIANCE else self.trials

    def expanded_shapes(self) -> dict[Shape, bool]:
        """Every shape once, in order, with whether it is required (by any entry that names it)."""
        shapes: dict[Shape, bool] = {}
        for entry in self.shapes:
            for shape in entry.shapes():
                shapes[shape] = shapes.get(shape, False) or entry.required
        return shapes


Job = KernelJob
KINDS: dict[str, type[JobBase]] = {"kernel": KernelJob}
