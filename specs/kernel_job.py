"""Jobs of kind `kernel`: implementations of one operation, on shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from specs.errors import nearest, shown
from specs.job import (
    MOST,
    Dtype,
    Expectation,
    GivenExpectation,
    JobBase,
    Part,
    Property,
    Stress,
    VariantName,
    wrong,
)
from specs.shapes import FIXED_SETS, WEIGHT_SETS, Shape, with_tokens
from specs.subject import Subject

KERNEL_PROPERTIES = (
    Property.RUN_TO_RUN,
    Property.BATCH_INVARIANCE,
    Property.CROSS_PROCESS,
    Property.CROSS_DEVICE,
    Property.SM_COUNT,
)


def _of_kernels(prop: Property) -> Property:
    if prop in KERNEL_PROPERTIES:
        return prop
    raise ValueError(f"{prop}: allowed: {', '.join(KERNEL_PROPERTIES)}; {prop} is a property of kind: model")


_Property = Annotated[
    Property,
    Field(strict=False),
    AfterValidator(_of_kernels),
    WithJsonSchema({"type": "string", "enum": list(KERNEL_PROPERTIES)}),
]
_Dtype = Annotated[Dtype, Field(strict=False)]
_Stress = Annotated[Stress, Field(strict=False)]


class Variant(Part):
    """One implementation under test. A bare name is short for `{name: NAME}`."""

    name: VariantName = Field(
        description="own kernel, peer, or python:package.module:function with sgl-kernel's signature"
    )
    expect: GivenExpectation | dict[_Property, GivenExpectation] = Field(
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
        description="largest relative error against fp64, as a multiple of what rounding alone costs",
    )
    speed: SpeedGate | None = None


def long_variant(entry: object) -> object:
    return {"name": entry} if isinstance(entry, str) else entry


def long_shape(entry: object) -> object:
    if isinstance(entry, str):
        return {"set": entry}
    return {"mkn": entry} if isinstance(entry, list) else entry


class KernelJob(JobBase):
    """Determinism, accuracy and speed of one operation's implementations."""

    kind: Literal["kernel"]
    op: Literal["fp8_blockwise_gemm"] = Field(description="the operation under test")
    variants: Annotated[
        list[Annotated[Variant, BeforeValidator(long_variant, json_schema_input_type=VariantName | Variant)]],
        Field(min_length=1, description="what is tested; a bare name is short for {name: NAME}"),
    ]
    shapes: Annotated[
        list[Annotated[ShapeEntry, BeforeValidator(long_shape, json_schema_input_type=Mkn | SetName | ShapeEntry)]],
        Field(min_length=1, description="[m, k, n], names of sets of shapes, or {set: NAME, m: [..], required: false}"),
    ]
    dtypes: Annotated[list[_Dtype], Field(min_length=1)] = Field(default=[Dtype.BF16])
    properties: Annotated[list[_Property], Field(min_length=1)] = Field(default=[Property.RUN_TO_RUN])
    stress: Annotated[list[_Stress], Field(min_length=1)] = Field(default=[Stress.QUIET])
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
            raise wrong(cls.__name__, faults)
        return items

    @model_validator(mode="after")
    def _speed_against_a_variant(self) -> KernelJob:
        gate = self.gates.speed
        names = [variant.name for variant in self.variants]
        if gate is not None and gate.against not in names:
            message = f"{shown(gate.against)}: allowed: the variants of this job: {', '.join(names)}"
            message += nearest(gate.against, names)
            raise wrong(type(self).__name__, [(("gates", "speed", "against"), gate.against, message)])
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

    def expectations(self, prop: Property) -> dict[str, Expectation]:
        """Of each variant, what is expected of it."""
        return {variant.name: variant.expectation(prop) for variant in self.variants}

    def required(self, subject: Subject) -> bool:
        """Whether an inconclusive verdict about it counts."""
        return isinstance(subject, Shape) and self.expanded_shapes()[subject]

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
