"""What comes back: a result per work unit, a verdict per group, a record per run."""

from __future__ import annotations

import builtins
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from specs.errors import ExitCode
from specs.job import Dtype, Expectation, Mode, Part, Property
from specs.kinds import Job
from specs.shapes import Shape
from specs.subject import Concerning
from specs.uniqueness import CellRecord, Sighting


class Environment(Part):
    """Where a worker ran. Samples are compared only within one `stratum`."""

    node: str
    cpu: str
    device: str
    """'cpu' or the GPU's model name."""
    device_uuid: str | None
    driver: str | None
    cuda: str | None
    nccl: str | None
    python: str
    torch: str
    ray: str
    packages: dict[str, str]
    kernel_build: str
    git_commit: str | None
    variables: dict[str, str]
    """Environment variables that change results: CUDA_*, NCCL_*, CUBLAS_*, OMP_*, SGLANG_*, FARM_CPU_ISA, …"""
    visible_devices: str | None

    @property
    def stratum(self) -> str:
        return " / ".join(
            [self.device if self.device != "cpu" else self.cpu, self.driver or "-", self.kernel_build[:12]]
        )


class Measurement(Part):
    """Accuracy and speed of one variant, shape and dtype, from one unit."""

    seconds: list[float]
    """Of a launch, in the order they were made; on a GPU each is the mean over a turn (see ``workers.timing``)."""
    captured: bool = False
    """Launched by CUDA graphs. Elsewhere the host's time is in ``seconds``."""
    relative_error: float
    """||out - ref|| / ||ref|| against fp64 of the dequantised operands."""
    rounding_floor: float
    """The relative error that rounding alone makes: of the result to the dtype, and of the sum before it."""
    reordered_elements: int
    """Output elements, of those looked at, whose bits change when the reference sums its K blocks in another order."""
    reordered_of: int


class Generation(Part):
    """What the middle one of a unit's batches, sent again, had the engine compute, and how long that took.

    The cache was empty; kernels were compiled and graphs captured before.
    """

    prompt_tokens: int
    """Whether computed or found in the prefix cache."""
    new_tokens: int
    seconds: float
    """From the first request to the last answer, without flushing caches and digesting."""


class RowValues(Part):
    """How the blamed operation's output parted in the one row, which was given the same twice."""

    elements: int
    differing: int
    coordinates: tuple[int, int]
    """Row and column of the first element that differs, in the output as the first run had it."""
    values: tuple[str, str]
    bits: tuple[str, str]
    """Hexadecimal."""
    max_ulp: int | None
    """None for what is no float, and where a NaN is involved."""


class Divergence(Concerning):
    """Where two repeats of one group first parted: the operation with equal inputs and unequal output.

    Pairs are of the first run and of the second, which may be rows of one batch.
    """

    property: Property
    trials: tuple[int, int]
    labels: tuple[str, str]
    """Of the sequences whose row it is."""
    rank: int
    steps: tuple[int, int]
    """Forward passes of the batch, counted from 0."""
    position: int
    """Of the token, in its sequence."""
    sampled_at: int
    """Position whose next token, or its logprob, is the first that differs."""
    op: str
    kind: str
    implementation: str
    layer: int | None
    gemm_shapes: tuple[tuple[int, int, int], tuple[int, int, int]] | None
    """(m, n, k) in both runs."""
    inputs_equal: bool
    """False where an input that differed was made by nothing that is traced: then the fault lies before."""
    weights_equal: bool
    row: RowValues | None
    """None where the operation did not part again when its tensors were to be kept."""
    artefact: str | None
    """Digest of the file in the run's folder that has the operation's tensors; None where there is none."""


class Coverage(Part):
    """What really ran for one kind of operation of one target."""

    variant: str
    kind: str
    implementation: str
    operations: int
    """In the batches that were traced for it, over all ranks."""
    outside: bool
    """The target is to be deterministic, and it is not known of this implementation that a row's bits are its own."""


class UnitResult(Part):
    unit: int
    attempt: int
    environment: Environment
    cells: list[CellRecord]
    measurement: Measurement | None = None
    generation: Generation | None = None
    divergences: list[Divergence] = Field(default=[])
    coverage: list[Coverage] = Field(default=[])
    unsupported: str | None = None
    seconds: float


class UnitFailure(Part):
    """An attempt at a unit that gave no samples."""

    unit: int
    attempt: int
    reason: str


class Outcome(StrEnum):
    DETERMINISTIC = "deterministic"
    NONDETERMINISTIC = "nondeterministic"
    INCONCLUSIVE = "inconclusive"
    UNSUPPORTED = "unsupported"
    ERROR = "error"


WORST_FIRST = (
    Outcome.NONDETERMINISTIC,
    Outcome.ERROR,
    Outcome.INCONCLUSIVE,
    Outcome.UNSUPPORTED,
    Outcome.DETERMINISTIC,
)
"""Where there is room for one of several verdicts, the first of these is shown."""


class Witness(Part):
    """Two samples that should have been equal, and how they differ."""

    item: int
    first: Sighting
    second: Sighting
    first_digest: str
    second_digest: str
    elements: int
    differing: int
    index: int
    """Of the first differing element, in row-major order."""
    coordinates: tuple[int, ...]
    values: tuple[str, str]
    """Decimal, shortest that reads back to the same bits."""
    bits: tuple[str, str]
    """Hexadecimal."""
    max_ulp: int | None
    """Largest distance in units in the last place; None where a NaN is involved."""


class Timing(Part):
    """Seconds per launch."""

    launches: int
    median: float
    q1: float
    q3: float


class Verdict(Concerning):
    """About one group in one stratum."""

    property: Property
    stratum: str
    outcome: Outcome
    reason: str | None
    """Why it is not simply what the counts say, in plain words."""
    expected: Expectation
    required: bool
    trials: int
    total: int
    unique: int
    items: int
    flips: int
    first_flip: Sighting | None
    bound: float | None
    """Exact 95 % upper bound of the flip rate after `trials` trials without a flip; None where there was one."""
    witness: Witness | None
    divergence: Divergence | None = None

    @builtins.property
    def met(self) -> bool:
        """Whether this is what the spec expected. Inconclusive, unsupported and error count elsewhere."""
        return not (self.outcome is Outcome.NONDETERMINISTIC and self.expected is Expectation.DETERMINISTIC)


class Speed(Part):
    """Accuracy and time of one variant, shape and dtype."""

    variant: str
    shape: Shape
    dtype: Dtype
    stratum: str
    timing: Timing
    relative_error: float
    rounding_floor: float
    cost: float | None
    """Median time over that of the fastest nondeterministic variant on this shape; None where there is none."""
    failed_gates: list[str]
    open_gates: list[str] = Field(default=[])
    """Those that can't be held, since something was not measured."""


class Throughput(Part):
    """How fast one target of a model job generated in one mode."""

    variant: str
    mode: Mode
    dtype: Dtype
    stratum: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    tokens_per_second: float
    """New tokens, over one batch of each unit."""
    cost: float | None
    """Tokens per second of the fastest nondeterministic target on as many ranks over this one's; None without one."""


class Judgement(Part):
    """All that a run says. The same object is printed, stored and reported."""

    verdicts: list[Verdict]
    speeds: list[Speed]
    throughputs: list[Throughput] = Field(default=[])
    coverage: list[Coverage] = Field(default=[])
    """Of model jobs with `trace`, over all units."""
    errors: list[str]
    """Units that failed in every attempt, in plain words."""
    exit_code: ExitCode


class RunStatus(StrEnum):
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETE = "complete"
    FAILED = "failed"
    """The farm itself could not go on: the reason is in the run's `error`."""


class RunRecord(Part):
    """One run as `list` and `show` know it, and as `--json` prints it."""

    id: str
    name: str
    kind: str
    status: RunStatus
    created_at: datetime
    finished_at: datetime | None
    units: int
    units_done: int
    exit_code: ExitCode | None
    error: str | None
    folder: str
    farm_version: str
    job: Job
    judgement: Judgement | None
    environments: list[Environment]
