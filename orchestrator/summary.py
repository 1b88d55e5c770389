"""What the JSON of a run leads with: a kernel run in four numbers, a model run with a few for each target and mode."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from orchestrator.report.parting import divergence_words
from specs.job import Expectation, Property
from specs.result import WORST_FIRST, Judgement, Outcome, Verdict
from specs.subject import Prompt
from workers.drawing import FIRST_ROW

COMPARED_WITH_OTHERS = (Property.BATCH_INVARIANCE, Property.SM_COUNT, Property.CROSS_DEVICE)


class Summary(TypedDict):
    launches: int
    """Of variants that are expected to be deterministic."""
    unique_max: int
    """Most distinct results of any of their groups."""
    invariance_bits_differing: int
    """Of their samples at other batch sizes, SM counts or devices, those whose bits differed."""
    control_unique_min: int | None
    """Fewest distinct results of any control on a shape that is required; None where there is no control."""


class ModeSummary(TypedDict):
    """Of all prompts of one mode."""

    target: str
    mode: str
    property: str
    total: int
    unique: int
    """Of the prompt that has most distinct answers."""
    verdict: str
    """The worst of the prompts'."""
    tokens_per_second: float | None
    cost: float | None
    first_divergence: str | None
    """Where the first of the prompts parted that was traced."""
    row0_unique: NotRequired[int]
    """Of the first rows of `single`'s batches alone, with `compat: sglang`."""


class ModelSummary(TypedDict):
    configurations: list[ModeSummary]


def summarise(judgement: Judgement) -> Summary:
    """Groups that could not be run count nowhere."""
    ran = [v for v in judgement.verdicts if v.outcome not in (Outcome.UNSUPPORTED, Outcome.ERROR)]
    tested = [verdict for verdict in ran if verdict.expected is Expectation.DETERMINISTIC]
    controls = [verdict for verdict in ran if verdict.expected is Expectation.NONDETERMINISTIC and verdict.required]
    return Summary(
        launches=sum(verdict.trials for verdict in tested),
        unique_max=max((verdict.unique for verdict in tested), default=0),
        invariance_bits_differing=sum(v.flips for v in tested if v.property in COMPARED_WITH_OTHERS),
        control_unique_min=min((verdict.unique for verdict in controls), default=None),
    )


def summarise_modes(judgement: Judgement) -> ModelSummary:
    """One entry for each target, mode and property, in the order of the verdicts."""
    found: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in judgement.verdicts:
        if isinstance(verdict.subject, Prompt):
            found.setdefault((verdict.variant, verdict.subject.mode, verdict.property), []).append(verdict)
    speeds = {(one.variant, str(one.mode)): one for one in judgement.throughputs}
    configurations = []
    for (target, mode, prop), verdicts in found.items():
        speed = speeds.get((target, mode))
        every_row = [verdict for verdict in verdicts if _prompt_name(verdict) != FIRST_ROW]
        summary = ModeSummary(
            target=target,
            mode=mode,
            property=prop,
            total=sum(verdict.total for verdict in every_row),
            unique=max(verdict.unique for verdict in every_row),
            verdict=min((verdict.outcome for verdict in every_row), key=WORST_FIRST.index),
            tokens_per_second=speed.tokens_per_second if speed else None,
            cost=speed.cost if speed else None,
            first_divergence=next((divergence_words(v.divergence) for v in every_row if v.divergence), None),
        )
        for verdict in verdicts:
            if _prompt_name(verdict) == FIRST_ROW:
                summary["row0_unique"] = verdict.unique
        configurations.append(summary)
    return ModelSummary(configurations=configurations)


def _prompt_name(verdict: Verdict) -> str:
    assert isinstance(verdict.subject, Prompt)
    return verdict.subject.name
