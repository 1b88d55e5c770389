"""What tracing adds to a unit of a model job: where its groups parted, and which implementations ran."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_128_hexdigest

from specs.model_job import ModelJob
from specs.result import Coverage, Divergence, RowValues
from specs.subject import Prompt
from specs.unit import Group, ModelUnit
from workers.drawing import counted_as
from workers.engine.modes import Sample, Trial
from workers.trace.capture import pack
from workers.trace.coverage import covered
from workers.trace.replay import Found, Replayer
from workers.trace.values import row_difference


@dataclass(frozen=True)
class Flip:
    """Samples of one prompt and item that parted, and the batches that had them."""

    prompt: str
    item: int
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Explanation:
    divergences: list[Divergence] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    artefacts: dict[str, bytes] = field(default_factory=dict)
    """safetensors files by their digests, in hex."""


def explain(
    job: ModelJob, unit: ModelUnit, replayer: Replayer, trials: Sequence[Trial], flips: Sequence[Flip]
) -> Explanation:
    """Search for each of rank 0's ``flips``, and trace a mode's first batch. Every rank calls it; rank 0's counts.

    ``trials`` are those of the unit's mode, from number 1 on.
    """
    found = Explanation()
    if unit.first_trial == 1:
        _, traces = replayer.traced(trials[0])
        deterministic = job.target(unit.variant).deterministic
        found.coverage.extend(covered(unit.variant, traces, deterministic=deterministic))
    for flip in replayer.from_rank_0(list(flips)):
        _search(job, unit, replayer, trials, flip, found)
    return found


def _search(
    job: ModelJob, unit: ModelUnit, replayer: Replayer, trials: Sequence[Trial], flip: Flip, into: Explanation
) -> None:
    def item_of(sample: Sample) -> int | None:
        return flip.item if (flip.prompt, flip.item) in counted_as(job, sample, unit.mode) else None

    found = replayer.search([trials[number - 1] for number in flip.trials], item_of)
    if found is None:
        return
    group = next(group for group in unit.groups if _name(group) == flip.prompt)
    kept = None
    if found.captured is not None and found.rows is not None:
        kept = pack(found.captured, found.rows, _about(found, group)), _values(found)
    kept = next((each for each in replayer.to_rank_0(kept) if each is not None), None)
    packed, values = kept or (None, None)
    name = None
    if packed is not None:
        name = xxh3_128_hexdigest(packed)
        into.artefacts[name] = packed
    into.divergences.append(_divergence(found, group, values, name))


def _name(group: Group) -> str:
    assert isinstance(group.subject, Prompt)
    return group.subject.name


def _divergence(found: Found, group: Group, values: RowValues | None, artefact: str | None) -> Divergence:
    parting = found.parting
    op, other = parting.ops
    shapes = op.gemm_shape, other.gemm_shape
    layer = re.match(r"layers\.(\d+)\.", op.name)
    return Divergence(
        variant=group.variant,
        subject=group.subject,
        dtype=group.dtype,
        property=group.property,
        trials=(found.answers[0].trial.number, found.answers[1].trial.number),
        labels=parting.labels,
        rank=parting.rank,
        steps=parting.steps,
        position=parting.position,
        sampled_at=parting.sampled_at,
        op=op.name,
        kind=op.kind,
        implementation=op.implementation,
        layer=int(layer[1]) if layer else None,
        gemm_shapes=(shapes[0], shapes[1]) if shapes[0] and shapes[1] else None,
        inputs_equal=parting.inputs_equal,
        weights_equal=parting.weights_equal,
        row=values,
        artefact=artefact,
    )


def _values(found: Found) -> RowValues:
    assert found.rows is not None
    one, other = found.rows
    difference = row_difference(one.output, other.output)
    assert difference is not None
    width = one.output[0].numel()
    row, column = divmod(difference.column, width)
    return RowValues(
        elements=difference.elements,
        differing=difference.differing,
        coordinates=(one.place + row, column),
        values=difference.values,
        bits=difference.bits,
        max_ulp=difference.max_ulp,
    )


def _about(found: Found, group: Group) -> dict[str, object]:
    op = found.parting.ops[0]
    return {
        "group": str(group),
        "op": op.name,
        "kind": op.kind,
        "implementation": op.implementation,
        "rank": found.parting.rank,
        "position": found.parting.position,
    }
