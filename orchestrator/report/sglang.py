"""The counts of a model run in the words of SGLang's `sglang.test.test_deterministic`, to be compared line by line."""

from __future__ import annotations

from specs.job import Mode, Property
from specs.model_job import ModelJob
from specs.result import RunRecord, Verdict
from specs.subject import Prompt
from workers.drawing import FIRST_ROW


def sglang_lines(record: RunRecord) -> dict[str, list[str]]:
    """Of each target, the lines of `single`, `mixed` and `prefix`. All rows of all batches are samples.

    SGLang counts the first row of each batch of `single` alone: so does its line where the job says `compat: sglang`.
    """
    job = record.job
    if not isinstance(job, ModelJob) or record.judgement is None:
        return {}
    found: dict[str, list[str]] = {}
    for verdict in record.judgement.verdicts:
        if not isinstance(verdict.subject, Prompt) or verdict.property is Property.TP_INVARIANCE:
            continue
        head = _head(job, verdict.subject)
        if head is not None:
            found.setdefault(verdict.variant, []).append(_line(head, verdict))
    return found


def _head(job: ModelJob, prompt: Prompt) -> str | None:
    """What stands before the counts; None where SGLang has no such line."""
    match prompt.mode:
        case Mode.SINGLE:
            return "Total" if (prompt.name == FIRST_ROW) == (job.compat == "sglang") else None
        case Mode.MIXED:
            return f"{prompt.name.capitalize()}: total"
        case Mode.PREFIX:
            length = int(prompt.name.rpartition(" ")[2])
            return f"Prompt {job.prefix_lengths.index(length)} with {prompt.name}: total"
        case _:
            return None


def _line(head: str, verdict: Verdict) -> str:
    return f"{head} samples: {verdict.total}, Unique samples: {verdict.unique}"
