"""The batches of a model job: what is drawn for each mode, and under which names and items its samples are counted.

Plans are made with it too, so it imports no torch.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from specs.device import Device
from specs.errors import UsageError
from specs.job import Mode
from specs.model_job import ModelJob
from workers.engine.modes import ModeOptions, Sample, Trial, draw
from workers.engine.prompts import Prompts, own_prompts
from workers.engine.tokenizer import ByteTokenizer, Tokenizer

PAIRED = {Mode.RADIX_CACHE: "cached vs uncached", Mode.P_VS_D: "decoded vs prefilled"}
"""Modes whose samples come in pairs: of these a name for all pairs, each of which is an item of its own."""
TIMED = {Device.CPU: 1, Device.CUDA: 2}
"""How often a unit's middle batch is sent again, for its time: on a GPU the first compiles and captures graphs."""
FIRST_ROW = "prompt 1, row 0"
"""What SGLang's own test counts of `single`."""


def drawn(
    job: ModelJob, mode: Mode, prompts: Prompts, tokenizer: Tokenizer, *, vocab_size: int, longest: int
) -> list[Trial]:
    """All batches of a mode, with a long prompt of at most ``longest`` tokens.

    Raises UsageError for prefix lengths that the long prompt does not have.
    """
    cut = longest if job.long_prompt_tokens is None else min(longest, job.long_prompt_tokens)
    options = ModeOptions(
        vocab_size=vocab_size,
        max_new_tokens=job.max_new_tokens,
        temperature=job.temperature,
        sampling_seed=job.sampling_seed,
        n_start=job.n_start,
        prefix_lengths=tuple(job.prefix_lengths),
        prefix_unit=job.prefix_unit,
        long_prompt_tokens=cut,
    )
    return draw(mode, job.trials, job.seed, prompts, tokenizer, options)


def prompt_names(job: ModelJob, mode: Mode) -> list[dict[str, None]]:
    """For each batch of a mode, the names of the prompts in it, in the order of the rows."""
    # The texts are on the workers, and change no name.
    longest = max(job.prefix_lengths)
    trials = drawn(job, mode, Prompts("1", "2", "x" * longest), ByteTokenizer(), vocab_size=256, longest=longest)
    return [
        dict.fromkeys(
            name
            for place, row in enumerate(trial.rows)
            if row.group is not None
            for name, _ in counted_as(job, Sample(row.group, trial.number, place, b""), mode)
        )
        for trial in trials
    ]


def batches_text(trials: Sequence[Trial]) -> str:
    """What was drawn, as JSON that is kept with the run: of each batch the rows, in order."""
    return json.dumps(
        [
            {
                "batch": trial.number,
                "rows": [
                    {
                        "label": row.request.label,
                        "group": row.group,
                        "prompt_tokens": len(row.request.tokens),
                        "max_new_tokens": row.request.max_new_tokens,
                        "arrives_at_step": row.request.arrives_at_step,
                    }
                    for row in trial.rows
                ],
            }
            for trial in trials
        ]
    )


def counted_as(job: ModelJob, sample: Sample, mode: Mode) -> list[tuple[str, int]]:
    """Under which prompt names a sample is counted, and as which item of each."""
    if mode in PAIRED:
        # The batches before this one have 1, 2, 3 .. rows in `p_vs_d`, and always one in `radix_cache`.
        before = sample.trial * (sample.trial - 1) // 2 if mode is Mode.P_VS_D else sample.trial - 1
        return [(PAIRED[mode], before + sample.row)]
    names = [sample.group]
    if mode is Mode.SINGLE and job.compat == "sglang" and sample.row == 0:
        names.append(FIRST_ROW)
    return [(name, 0) for name in names]


def read_prompts(job: ModelJob) -> Prompts:
    """What the modes send. Raises UsageError for a file that can't be read, or for want of the package sglang."""
    prompts = _sglang_prompts() if job.compat == "sglang" else own_prompts(job.seed)
    if job.prompts is not None:
        prompts = replace(prompts, prompt_1=job.prompts[0], prompt_2=job.prompts[1])
    if job.long_prompt_file is None:
        return prompts
    try:
        return replace(prompts, long=Path(job.long_prompt_file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"long_prompt_file {job.long_prompt_file} can't be read: {error}") from error


def _sglang_prompts() -> Prompts:
    try:
        theirs: Any = importlib.import_module("sglang.test.test_deterministic")
    except ImportError as error:
        raise UsageError(f"compat: sglang needs the package sglang on every worker: {error}") from error
    return Prompts(theirs.PROMPT_1, theirs.PROMPT_2, theirs.LONG_PROMPT)
