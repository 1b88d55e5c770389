"""What every report says in the same words: verdicts, witnesses, times, environments, exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.parting import coverage_words, divergence_words
from specs.errors import ExitCode
from specs.job import Dtype, Expectation, Property
from specs.result import Environment, Judgement, Outcome, RunRecord, RunStatus, Speed, Throughput, Timing, Verdict
from specs.subject import Prompt, Subject
from specs.uniqueness import Sighting

EXIT_WORDS = {
    ExitCode.MET: "all expectations were met",
    ExitCode.FAILED: "an expectation failed",
    ExitCode.USAGE: "the farm could not take what it was given",
    ExitCode.INCONCLUSIVE: "inconclusive: what was expected is neither shown nor refuted",
    ExitCode.INFRASTRUCTURE: "infrastructure error: the farm could not find out",
    ExitCode.INTERRUPTED: "interrupted",
}
NO_STRATUM = "-"
"""Of a verdict about a group that has no samples."""
_NAMED_AT_MOST = 6


@dataclass(frozen=True)
class Line:
    """One verdict, with what was measured of the same variant, shape and dtype, or of the same target and mode."""

    verdict: Verdict
    speed: Speed | None
    throughput: Throughput | None = None

    @property
    def target(self) -> str:
        """All but the property."""
        return f"{self.verdict.variant} {self.verdict.subject} {self.verdict.dtype}"

    @property
    def measured_of(self) -> tuple[str, ...]:
        """What the measured figures are about: lines that share it share them."""
        subject = self.verdict.subject
        about = subject.mode if isinstance(subject, Prompt) else str(subject)
        return self.verdict.variant, about, self.verdict.dtype, self.verdict.stratum

    @property
    def measured(self) -> tuple[str, ...]:
        """One cell for each of the report's `measured` columns."""
        if isinstance(self.verdict.subject, Prompt):
            one = self.throughput
            return ("", "") if one is None else (f"{one.tokens_per_second:.4g}", cost_words(one.cost))
        if self.speed is None:
            return "", "", ""
        return timing_words(self.speed.timing), cost_words(self.speed.cost), error_words(self.speed.relative_error)


@dataclass(frozen=True)
class Columns:
    """Headings that depend on the kind of job."""

    variant: str
    subject: str
    measured: tuple[str, ...]


def columns(record: RunRecord) -> Columns:
    if record.kind == "model":
        return Columns("target", "prompt", ("tokens/s", "cost"))
    return Columns("variant", "shape", ("time (quartiles)", "cost", "rel. error"))


@dataclass(frozen=True)
class Note:
    """A reason, with all the groups that it holds for."""

    heading: str
    groups: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        """The groups, not more than a reader wants."""
        shown = ", ".join(self.groups[:_NAMED_AT_MOST])
        more = len(self.groups) - _NAMED_AT_MOST
        return f"{shown} and {more} more" if more > 0 else shown


def lines(record: RunRecord) -> list[Line]:
    """All verdicts of one variant together, then of one shape and dtype, each in order of first appearance."""
    if record.judgement is None:
        return []
    verdicts = record.judgement.verdicts
    speeds: dict[tuple[str, Subject, Dtype, str], Speed] = {
        (speed.variant, speed.shape, speed.dtype, speed.stratum): speed for speed in record.judgement.speeds
    }
    throughputs = {(one.variant, one.mode, one.dtype, one.stratum): one for one in record.judgement.throughputs}
    variants, subjects, dtypes = (
        {each: place for place, each in enumerate(dict.fromkeys(getattr(verdict, name) for verdict in verdicts))}
        for name in ("variant", "subject", "dtype")
    )
    ordered = sorted(verdicts, key=lambda v: (variants[v.variant], subjects[v.subject], dtypes[v.dtype]))
    return [
        Line(
            v,
            speeds.get((v.variant, v.subject, v.dtype, v.stratum)),
            throughputs.get((v.variant, v.subject.mode, v.dtype, v.stratum)) if isinstance(v.subject, Prompt) else None,
        )
        for v in ordered
    ]


def several_strata(record: RunRecord) -> bool:
    """Whether verdicts have to say which stratum they are about."""
    return len({line.verdict.stratum for line in lines(record)} - {NO_STRATUM}) > 1


def group_words(verdict: Verdict) -> str:
    return f"{verdict.variant} {verdict.subject} {verdict.dtype} {verdict.property}"


def is_open(verdict: Verdict) -> bool:
    """Inconclusive where the spec wanted to know: what exit code 3 is about."""
    asked = verdict.required and verdict.expected is not Expectation.ANY
    return verdict.outcome is Outcome.INCONCLUSIVE and asked


def verdict_words(verdict: Verdict) -> str:
    """The outcome with its numbers: `deterministic (0 flips in 50 trials, 95 % bound 5.8 %)`."""
    match verdict.outcome:
        case Outcome.NONDETERMINISTIC:
            numbers = f"{verdict.unique} unique of {verdict.total} samples, {_count(verdict.flips, 'flip')}"
        case Outcome.DETERMINISTIC | Outcome.INCONCLUSIVE if verdict.trials:
            numbers = f"{_count(verdict.flips, 'flip')} in {_count(verdict.trials, 'trial')}{_bound_words(verdict)}"
        case _:
            return verdict.outcome.value
    return f"{verdict.outcome} ({numbers})"


def bound_words(bound: float | None) -> str:
    """An upper bound in percent, with two significant digits; empty where there is none."""
    if bound is None:
        return ""
    percent = 100 * bound
    return f"{percent:#.2g} %" if percent < 9.95 else f"{percent:.0f} %"


def seconds_words(seconds: float) -> str:
    """With three significant digits, in us, ms or s."""
    if seconds < 0.9995e-3:
        number, unit = seconds * 1e6, "us"
    elif seconds < 0.9995:
        number, unit = seconds * 1e3, "ms"
    else:
        number, unit = seconds, "s"
    return f"{number:#.3g}".removesuffix(".") + f" {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def timing_words(timing: Timing) -> str:
    """The median with the quartiles: `1.20 ms (1.14 ms to 1.32 ms)`."""
    return f"{seconds_words(timing.median)} ({seconds_words(timing.q1)} to {seconds_words(timing.q3)})"


def cost_words(cost: float | None) -> str:
    return "" if cost is None else f"{cost:.2f} x"


def error_words(relative_error: float) -> str:
    return f"{relative_error:.2e}"


def witness_words(verdict: Verdict) -> str | None:
    """The two samples that should have been equal, or where the flip was seen if they were not kept."""
    witness = verdict.witness
    if witness is None:
        first = verdict.first_flip
        return f"the first flip was seen in {_sighting_words(first)}; its bytes were not kept" if first else None
    (one, other), (one_bits, other_bits) = witness.values, witness.bits
    pair = (
        f"{one} ({one_bits}) in {_sighting_words(witness.first)}, "
        f"{other} ({other_bits}) in {_sighting_words(witness.second)}"
    )
    if isinstance(verdict.subject, Prompt):
        apart = "" if witness.max_ulp is None else f"; logprobs of equal tokens are at most {witness.max_ulp} ULP apart"
        parted = f"{witness.differing} of {witness.elements} new tokens or their logprobs differ{apart}"
        return f"{parted}; the first is token {witness.index}: {pair}"
    row = f"row {witness.item}: " if verdict.property is Property.BATCH_INVARIANCE else ""
    at = ", ".join(map(str, witness.coordinates))
    distance = "a NaN is among them" if witness.max_ulp is None else f"at most {witness.max_ulp} ULP apart"
    parted = f"{row}{witness.differing} of {witness.elements} elements differ, {distance}"
    return f"{parted}; the first is element {witness.index}, at ({at}): {pair}"


def notes(record: RunRecord) -> list[Note]:
    """Whatever is not simply good news, the worst first; groups with one reason share one note.

    So do all flips of a variant that were expected: of these the first witness is enough.
    """
    if record.judgement is None:
        return []
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for heading, variant, group, text in _remarks(record.judgement):
        shared = variant if heading in (_CONTROL, _ALLOWED, _PARTED) else text
        found.setdefault((heading, shared), []).append((group, text))
    shared_notes = [
        Note(heading, tuple(group for group, _ in members), _text_of(heading, members))
        for (heading, _), members in found.items()
    ]
    return sorted(shared_notes, key=lambda note: _HEADINGS.index(note.heading))


def _text_of(heading: str, members: list[tuple[str, str]]) -> str:
    group, text = members[0]
    alike = all(other == text for _, other in members)
    return text if alike else f"{group} {'parted' if heading == _PARTED else 'is'} {text}"


_FAILED, _GATE, _ERROR, _PARTED, _OUTSIDE, _OPEN, _UNKNOWN, _UNSUPPORTED, _CONTROL, _ALLOWED = _HEADINGS = (
    "failed",
    "gate failed",
    "error",
    "parted first",
    "outside the deterministic set",
    "inconclusive",
    "inconclusive, not required",
    "unsupported",
    "control flipped",
    "nondeterministic, as allowed",
)


def _remarks(judgement: Judgement) -> Iterator[tuple[str, str, str, str]]:
    """(heading, variant, group, text); of where a group parted, the operation in the place of the variant"""
    for verdict in judgement.verdicts:
        name, group, reason = verdict.variant, group_words(verdict), verdict.reason or "no reason is known"
        match verdict.outcome:
            case Outcome.NONDETERMINISTIC:
                witness = witness_words(verdict) or "no sample was kept"
                control = verdict.expected is Expectation.NONDETERMINISTIC
                heading = _FAILED if not verdict.met else _CONTROL if control else _ALLOWED
                yield heading, name, group, f"{verdict_words(verdict)}: {witness}"
            case Outcome.INCONCLUSIVE:
                yield (_OPEN if is_open(verdict) else _UNKNOWN), name, group, reason
            case Outcome.UNSUPPORTED:
                yield _UNSUPPORTED, name, group, reason
            case Outcome.ERROR:
                yield _ERROR, name, group, reason
            case Outcome.DETERMINISTIC:
                pass
        one = verdict.divergence
        if one is not None:
            yield _PARTED, f"{name} {one.op} {one.rank}", group, divergence_words(one)
    for ran in judgement.coverage:
        if ran.outside:
            yield _OUTSIDE, ran.variant, ran.variant, coverage_words(ran)
    for speed in judgement.speeds:
        for heading, gates in ((_GATE, speed.failed_gates), (_OPEN, speed.open_gates)):
            for gate in gates:
                yield heading, speed.variant, f"{speed.variant} {speed.shape} {speed.dtype}", gate


def environment_words(environment: Environment) -> str:
    """One line: the machine, the GPU, the software that decides the bits."""
    device = environment.cpu if environment.device == "cpu" else f"{environment.device} on {environment.cpu}"
    versions = {
        "driver": environment.driver,
        "CUDA": environment.cuda,
        "NCCL": environment.nccl,
        "torch": environment.torch,
        "Ray": environment.ray,
        "Python": environment.python,
        "kernels": environment.kernel_build[:12],
        "commit": _commit_words(environment.git_commit),
    }
    told = [f"{name} {value}" for name, value in versions.items() if value]
    mask = [] if environment.visible_devices is None else [f"visible devices {environment.visible_devices or 'none'}"]
    return ", ".join([f"{environment.node}: {device}", *told, *mask])


def _commit_words(commit: str | None) -> str | None:
    """Short; a tree with changes that no commit has still says so."""
    if commit is None:
        return None
    name, dash, dirty = commit.partition("-")
    return name[:12] + dash + dirty


def run_words(record: RunRecord) -> str:
    """`run ID (NAME): complete after 83 s, 12 of 12 units`"""
    took = ""
    if record.finished_at is not None:
        took = f" after {(record.finished_at - record.created_at).total_seconds():.0f} s"
    return f"run {record.id} ({record.name}): {record.status}{took}, {record.units_done} of {record.units} units"


def exit_words(record: RunRecord) -> str:
    """`exit 1: an expectation failed`, and what to do where something is left to do."""
    if record.exit_code is None:
        return "still running"
    words = f"exit {record.exit_code.value}: {EXIT_WORDS[record.exit_code]}"
    if record.error:
        words += f": {record.error}"
    if record.status in (RunStatus.INTERRUPTED, RunStatus.FAILED):
        words += f". Go on with farm resume {record.id}"
    return words


def counts(record: RunRecord) -> dict[Outcome, int]:
    """How many verdicts there are of each outcome, without those that there are none of."""
    found = [line.verdict.outcome for line in lines(record)]
    return {outcome: found.count(outcome) for outcome in Outcome if outcome in found}


def _bound_words(verdict: Verdict) -> str:
    return f", 95 % bound {bound_words(verdict.bound)}" if verdict.bound is not None else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sighting_words(seen: Sighting) -> str:
    return f"trial {seen.trial} ({seen.conditions}, {seen.device})"
