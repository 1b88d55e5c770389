"""Jobs of kind `model`: one model, generating under modes that vary the batch, with several numerics under test."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from specs.errors import shown
from specs.job import (
    Dtype,
    Expectation,
    GivenExpectation,
    JobBase,
    Mode,
    Part,
    Property,
    Timeouts,
    VariantName,
    wrong,
)
from specs.subject import Subject

PROPERTY_OF = {
    Mode.SINGLE: Property.BATCH_INVARIANCE,
    Mode.MIXED: Property.BATCH_INVARIANCE,
    Mode.PREFIX: Property.BATCH_INVARIANCE,
    Mode.NEIGHBOUR: Property.BATCH_INVARIANCE,
    Mode.RADIX_CACHE: Property.CACHE_CONSISTENCY,
    Mode.P_VS_D: Property.PREFILL_VS_DECODE,
}
"""What the samples of a mode are compared for."""
MODEL_PROPERTIES = (*dict.fromkeys(PROPERTY_OF.values()), Property.TP_INVARIANCE)
MODEL_DTYPES = (Dtype.BF16, Dtype.FP32)


RADIX_IDS = 100
"""Of a prompt of `radix_cache`, which must fill a page to be cached at all."""


class CollectiveName(StrEnum):
    """How ranks add up their shares. `nccl` and `nccl-pinned` are gloo's own sum where ranks run on CPUs."""

    NCCL = "nccl"
    NCCL_PINNED = "nccl-pinned"
    ORDERED = "ordered"
    TREE = "tree"


class PrefixUnit(StrEnum):
    CHARS = "chars"
    TOKENS = "tokens"


class Pack(StrEnum):
    """Where the ranks of one target may be: all on one node, or spread over nodes."""

    NODE = "node"
    SPREAD = "spread"


def _of_models(prop: Property) -> Property:
    if prop in MODEL_PROPERTIES:
        return prop
    raise ValueError(f"{prop}: allowed: {', '.join(MODEL_PROPERTIES)}; {prop} is a property of kind: kernel")


def _model_dtype(dtype: Dtype) -> Dtype:
    if dtype in MODEL_DTYPES:
        return dtype
    raise ValueError(f"{dtype}: allowed: {' or '.join(MODEL_DTYPES)}")


_Property = Annotated[
    Property,
    Field(strict=False),
    AfterValidator(_of_models),
    WithJsonSchema({"type": "string", "enum": list(MODEL_PROPERTIES)}),
]
_Dtype = Annotated[
    Dtype,
    Field(strict=False),
    AfterValidator(_model_dtype),
    WithJsonSchema({"type": "string", "enum": list(MODEL_DTYPES)}),
]
_Mode = Annotated[Mode, Field(strict=False)]
_Ranks = Annotated[int, Field(ge=1, le=1024)]


class RandomModel(Part):
    """Weights drawn from a seed, the same for every number of ranks."""

    preset: Literal["deepseek-v3-nano", "deepseek-v3-mini", "deepseek-v3-layer"] = Field(
        description="nano runs on 2 CPU cores, mini on one GPU, layer has the widths of DeepSeek-V3 and few layers"
    )
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0


class ModelSource(Part):
    """Where the model comes from: `random: {preset: .., seed: ..}` or `path: FOLDER`."""

    random: RandomModel | None = Field(default=None, description="weights drawn from a seed")
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description="folder as Hugging Face has it, seen by every node: config.json, *.safetensors"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ModelSource:
        if (self.random is None) == (self.path is None):
            given = "neither" if self.path is None else "both"
            raise ValueError(f"{given} given: allowed: either random: {{preset: NAME}} or path: FOLDER")
        return self

    def __str__(self) -> str:
        return self.random.preset if self.random is not None else str(self.path)


class ModelTarget(Part):
    """The model with one choice of everything that decides the bits."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ - (at most 64)")
    gemm: VariantName | None = Field(
        default=None, description="variant that multiplies block-FP8 weights; null: plain products in the job's dtype"
    )
    collective: CollectiveName = Field(default=CollectiveName.NCCL, strict=False)
    deterministic: bool = Field(
        default=False, description="true: every other operation by kernels whose rows don't depend on the batch"
    )
    tp: _Ranks = Field(default=1, description="ranks that the model is sharded over")
    tp_granularity: _Ranks = Field(
        default=1, description="pieces that sharded sums are cut into whatever tp is: 1, or a power of two"
    )
    expect: GivenExpectation | dict[_Property, GivenExpectation] = Field(
        default=Expectation.DETERMINISTIC,
        description="one expectation, or one for each property; properties that are left out expect `any`",
    )

    @model_validator(mode="after")
    def _pieces_for_ranks(self) -> ModelTarget:
        pieces = self.tp_granularity
        if pieces > 1 and (pieces & (pieces - 1) or pieces % self.tp):
            message = f"{pieces}: allowed: 1, or a power of two that tp ({self.tp}) divides"
            raise wrong(type(self).__name__, [(("tp_granularity",), self.tp_granularity, message)])
        return self

    def expectation(self, prop: Property) -> Expectation:
        if isinstance(self.expect, dict):
            return self.expect.get(prop, Expectation.ANY)
        return self.expect


class ModelTimeouts(Timeouts):
    """In seconds."""

    rendezvous: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120.0, description="for all ranks of a target to find each other"
    )
    load: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=1800.0, description="for all ranks to read their shares of the weights"
    )


class ModelJob(JobBase):
    """Determinism of one model's answers, under modes that vary what else is computed beside them."""

    kind: Literal["model"]
    model: ModelSource
    targets: Annotated[list[ModelTarget], Field(min_length=1, description="what is tested")]
    modes: Annotated[list[_Mode], Field(min_length=1)] = Field(default=list(Mode))
    trials: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=50, description="batches of each mode; in most modes batch b has b requests"
    )
    tp_invariance: bool = Field(
        default=False, description="also compare the answers of targets that differ in tp alone"
    )
    dtype: _Dtype = Dtype.BF16
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 100
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    sampling_seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 42
    n_start: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1, description="requests of the first batch of `prefix`, as SGLang's option of that name"
    )
    prefix_lengths: Annotated[list[Annotated[int, Field(ge=1, le=10_000_000)]], Field(min_length=1)] = Field(
        default=[1, 511, 2048, 4097], description="of the long prompt, in `prefix_unit`"
    )
    prefix_unit: PrefixUnit = Field(default=PrefixUnit.CHARS, strict=False)
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="prompt 1 and prompt 2, where they should not be the farm's own"
    )
    long_prompt_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description="UTF-8 text, seen by every node, in place of the farm's own long prompt"
    )
    long_prompt_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        default=None, description="what the long prompt is cut to; it is never longer than the model's context"
    )
    compat: Literal["sglang"] | None = Field(
        default=None, description="prompts of an installed sglang, and row 0 of `single` counted on its own as well"
    )
    page_size: Annotated[int, Field(ge=1, le=65_536)] = Field(default=64, description="tokens in a page of the cache")
    pages: Annotated[int, Field(ge=1, le=1 << 24)] = Field(default=4096, description="pages of the cache")
    chunk: Annotated[int, Field(ge=1, le=1 << 20)] = Field(default=2048, description="most prompt tokens of one step")
    max_running: Annotated[int, Field(ge=1, le=65_536)] = Field(default=64, description="most sequences of one step")
    pack: Pack = Field(default=Pack.NODE, strict=False)
    mask_devices: bool = Field(
        default=False, description="true: a rank sees its own GPU alone; false: all of its node, as in most servers"
    )
    trace: bool = Field(
        default=False, description="run flipping batches again with every operation digested, to find the one to blame"
    )
    timeouts: ModelTimeouts = ModelTimeouts()

    @field_validator("targets", "modes", "prefix_lengths")
    @classmethod
    def _no_repeats(cls, items: list[Any]) -> list[Any]:
        names = [item.name if isinstance(item, ModelTarget) else str(item) for item in items]
        faults: list[tuple[tuple[str | int, ...], object, str]] = [
            ((place,), name, f"{shown(name)} is there already, at [{names.index(name)}]: leave one out")
            for place, name in enumerate(names)
            if names.index(name) != place
        ]
        if faults:
            raise wrong(cls.__name__, faults)
        return items

    @model_validator(mode="after")
    def _something_to_compare(self) -> ModelJob:
        if Mode.RADIX_CACHE in self.modes and self.page_size > RADIX_IDS:
            message = (
                f"{self.page_size}: allowed with mode radix_cache: 1 to {RADIX_IDS}, since it caches {RADIX_IDS} ids"
            )
            raise wrong(type(self).__name__, [(("page_size",), self.page_size, message)])
        if self.tp_invariance and not self.families():
            message = "true: allowed: with two targets or more that differ in name and tp alone"
            raise wrong(type(self).__name__, [(("tp_invariance",), True, message)])
        return self

    def target(self, name: str) -> ModelTarget:
        """The target of this name. Raises StopIteration where there is none."""
        return next(target for target in self.targets if target.name == name)

    def families(self) -> dict[str, tuple[ModelTarget, ...]]:
        """Targets that differ in name and tp alone, under the name that they have together, `A+B`."""
        alike: dict[str, list[ModelTarget]] = {}
        for target in self.targets:
            key = target.model_copy(update={"name": "", "tp": 1}).model_dump_json()
            alike.setdefault(key, []).append(target)
        return {
            "+".join(target.name for target in members): tuple(members)
            for members in alike.values()
            if len({target.tp for target in members}) > 1
        }

    def expectations(self, prop: Property) -> dict[str, Expectation]:
        """Of each target, or of each family of targets for tp_invariance, what is expected of it."""
        if prop is Property.TP_INVARIANCE:
            return {name: members[0].expectation(prop) for name, members in self.families().items()}
        return {target.name: target.expectation(prop) for target in self.targets}

    def required(self, subject: Subject) -> bool:
        """Whether an inconclusive verdict about it counts: always."""
        return True

    def summary(self) -> str:
        """What is tested, in one line."""
        targets = "1 target" if len(self.targets) == 1 else f"{len(self.targets)} targets"
        modes = "1 mode" if len(self.modes) == 1 else f"{len(self.modes)} modes"
        return f"{self.model}, {targets} x {modes}, {self.trials} trials of each"
