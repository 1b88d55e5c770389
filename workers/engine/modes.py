"""The six test modes: which requests each trial sends, and which of the answers are samples.

``draw`` is a pure function of its arguments, so that every worker draws the same trials and they can be stored with a
run; ``play`` sends one trial's requests and reads its samples. Names and rules follow SGLang's
``sglang.test.test_deterministic``; differences are told where they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from specs.errors import UsageError
from specs.job import Mode
from specs.model_job import RADIX_IDS, PrefixUnit
from workers.engine.prompts import Prompts
from workers.engine.request import Completion, Request
from workers.engine.samples import encode
from workers.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModeOptions:
    """What a spec can set."""

    vocab_size: int
    """Random ids are below it."""
    max_new_tokens: int = 100
    temperature: float = 0.0
    sampling_seed: int = 42
    n_start: int = 1
    """Rows of ``prefix``'s first trial."""
    prefix_lengths: tuple[int, ...] = (1, 511, 2048, 4097)
    prefix_unit: PrefixUnit = PrefixUnit.CHARS
    long_prompt_tokens: int | None = None
    """The long prompt is cut to so many tokens, for models with fewer positions than it has; None: left whole."""


@dataclass(frozen=True)
class Row:
    """One request of a trial. ``group`` is None where its completion is no sample."""

    group: str | None
    request: Request


@dataclass(frozen=True)
class Trial:
    """Batch ``number`` of a mode, counted from 1."""

    mode: Mode
    number: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Sample:
    """One comparable result. All samples of a group, over all trials, must have the same ``data``."""

    group: str
    trial: int
    row: int
    """Of the trial's rows; two samples of ``radix_cache`` and ``p_vs_d`` come from one row, in order."""
    data: bytes
    """See ``workers.engine.samples``."""
    call: int = 0
    """Of the trial's calls of ``generate``, counted from 0, the one that it comes from."""


class Generator(Protocol):
    """The engine, or what sends requests to a server."""

    def generate(self, requests: list[Request]) -> list[Completion]: ...

    def flush_cache(self) -> None: ...


NEIGHBOURS = 8
"""Most rows beside the fixed prompt."""
FIXED_PROMPT_TOKENS = 600
"""Of the long prompt: several pages."""


def draw(
    mode: Mode, trials: int, seed: int, prompts: Prompts, tokenizer: Tokenizer, options: ModeOptions
) -> list[Trial]:
    """Trials 1 to ``trials`` of a mode. Each is drawn by itself: a shorter run has the first of a longer one's.

    Raises UsageError for options that are out of range, and for prompts without tokens.
    """
    _check(trials, options)
    texts = _Texts(prompts, tokenizer, options)
    drawers = {
        Mode.SINGLE: _single,
        Mode.MIXED: _mixed,
        Mode.PREFIX: _prefix,
        Mode.RADIX_CACHE: _radix_cache,
        Mode.P_VS_D: _p_vs_d,
        Mode.NEIGHBOUR: _neighbour,
    }
    return [
        Trial(mode, number, tuple(drawers[mode](number, random.Random(f"{seed} {mode} {number}"), texts)))
        for number in range(1, trials + 1)
    ]


def play(trial: Trial, generator: Generator) -> list[Sample]:
    """Run one trial. Raises what ``generator`` raises."""
    if trial.mode is Mode.RADIX_CACHE:
        return _play_radix_cache(trial, generator)
    if trial.mode is Mode.P_VS_D:
        return _play_p_vs_d(trial, generator)
    if trial.mode in (Mode.PREFIX, Mode.NEIGHBOUR):
        generator.flush_cache()
    completions = generator.generate([row.request for row in trial.rows])
    return [
        Sample(row.group, trial.number, index, encode(completion.tokens, completion.logprobs))
        for index, (row, completion) in enumerate(zip(trial.rows, completions, strict=True))
        if row.group is not None
    ]


class _Texts:
    """The prompts as token ids, and requests made of them."""

    def __init__(self, prompts: Prompts, tokenizer: Tokenizer, options: ModeOptions) -> None:
        self.options, self._tokenizer, self._long_text = options, tokenizer, prompts.long
        self.prompt_1 = self._encode("prompt 1", prompts.prompt_1)
        self.prompt_2 = self._encode("prompt 2", prompts.prompt_2)
        self.long = self._encode("long prompt", prompts.long)[: options.long_prompt_tokens]

    @cached_property
    def beginnings(self) -> dict[int, tuple[int, ...]]:
        """For each of ``prefix_lengths``, so many characters or tokens of the long prompt."""
        unit = self.options.prefix_unit
        whole = len(self._long_text if unit is PrefixUnit.CHARS else self.long)
        for length in self.options.prefix_lengths:
            if not 1 <= length <= whole:
                raise UsageError(f"prefix_lengths has {length}; the long prompt has 1 to {whole} {unit}")
        if unit is PrefixUnit.TOKENS:
            return {length: self.long[:length] for length in self.options.prefix_lengths}
        return {
            length: self._encode(f"the long prompt's first {length} characters", self._long_text[:length])
            for length in self.options.prefix_lengths
        }

    def request(self, tokens: tuple[int, ...], label: str) -> Request:
        options = self.options
        return Request(tokens, label, options.max_new_tokens, options.temperature, options.sampling_seed)

    def _encode(self, name: str, text: str) -> tuple[int, ...]:
        tokens = tuple(self._tokenizer.encode(text))
        if not tokens:
            raise UsageError(f"{name} has no tokens; give it some text")
        return tokens


def _rows(groups: list[str], tokens: dict[str, tuple[int, ...]], texts: _Texts) -> Iterator[Row]:
    """A row of each group's prompt; labels number the rows of a group, so that they are the same in every trial."""
    seen: dict[str, int] = {}
    for group in groups:
        seen[group] = seen.get(group, 0) + 1
        yield Row(group, texts.request(tokens[group], f"{group} #{seen[group]}"))


def _single(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    return _rows(["prompt 1"] * number, {"prompt 1": texts.prompt_1}, texts)


def _mixed(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    long = 0 if number <= 10 else rng.randint(1, 10)
    first = rng.randint(1, number - long)
    second = number - first - long
    groups = ["prompt 1"] * first + ["prompt 2"] * second + ["long prompt"] * long
    return _rows(groups, {"prompt 1": texts.prompt_1, "prompt 2": texts.prompt_2, "long prompt": texts.long}, texts)


def _prefix(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    lengths = texts.options.prefix_lengths
    rows = texts.options.n_start + number - 1
    groups = [f"prefix length {rng.choice(lengths)}" for _ in range(rows)]
    return _rows(groups, {f"prefix length {length}": tokens for length, tokens in texts.beginnings.items()}, texts)


def _radix_cache(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    tokens = tuple(rng.randrange(texts.options.vocab_size) for _ in range(RADIX_IDS))
    yield Row(f"cached vs uncached, ids {number}", texts.request(tokens, f"ids {number}"))


def _p_vs_d(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    """``number`` sequences: the three prompts, then parts of the long one, half of them from its beginning."""
    prompts = [texts.prompt_1, texts.prompt_2, texts.long]
    while len(prompts) < number:
        end = rng.randint(1, min(4096, len(texts.long)))
        begin = rng.choice((0, rng.randrange(end)))
        prompts.append(texts.long[begin:end])
    for index, tokens in enumerate(prompts[:number], 1):
        name = f"sequence {number}.{index}"
        yield Row(name, texts.request(tokens, name))


def _neighbour(number: int, rng: random.Random, texts: _Texts) -> Iterator[Row]:
    """The first trial has the fixed prompt alone. Neighbours come before, with and after it, to be prefilled while it
    decodes and the other way round; it has a row of its own among them."""
    group, new = "fixed prompt", max(texts.options.max_new_tokens, 1)
    fixed = texts.request(texts.long[:FIXED_PROMPT_TOKENS], group)
    others = 0 if number == 1 else rng.randint(1, NEIGHBOURS)
    rows = [Row(group, replace(fixed, arrives_at_step=0 if number == 1 else rng.randint(0, 4)))]
    for index in range(1, others + 1):
        # Not from the beginning: with the fixed prompt's prefix, they would only fill the cache for it.
        begin = rng.randrange(1, max(len(texts.long) // 2, 2))
        tokens = texts.long[begin : begin + rng.choice((1, 40, 300, 1200))] or texts.prompt_2
        request = texts.request(tokens, f"neighbour {index}")
        arrival = rng.randint(0, new)
        row = Row(None, replace(request, arrives_at_step=arrival, max_new_tokens=rng.randint(1, new)))
        rows.insert(rng.randint(0, len(rows)), row)
    return iter(rows)


def _play_radix_cache(trial: Trial, generator: Generator) -> list[Sample]:
    """R1 fills the cache; R2 finds it warm, R3 empty. R2 and R3 are the samples."""
    samples = []
    for index, row in enumerate(trial.rows):
        request = row.request
        generator.generate([replace(request, max_new_tokens=1)])
        generator.flush_cache()
        first = generator.generate([replace(request, max_new_tokens=2)])[0]
        again = replace(request, tokens=(*request.tokens, first.tokens[0]), max_new_tokens=1)
        warm = generator.generate([again])[0]
        generator.flush_cache()
        cold = generator.generate([again])[0]
        assert row.group is not None
        samples += [
            Sample(row.group, trial.number, index, encode(completion.tokens, completion.logprobs), 4 * index + call)
            for call, completion in ((2, warm), (3, cold))
        ]
    return samples


def _play_p_vs_d(trial: Trial, generator: Generator) -> list[Sample]:
    """All rows are decoded in one batch, and their outputs then sent in one batch as parts of prompts."""
    generator.flush_cache()  # the batch before left prefilled pages, which decoding would take over
    decoded = generator.generate([row.request for row in trial.rows])
    generator.flush_cache()
    prefilled = generator.generate(
        [
            replace(
                row.request,
                tokens=row.request.tokens + completion.tokens,
                logprobs_from=len(row.request.tokens),
                max_new_tokens=0,
            )
            for row, completion in zip(trial.rows, decoded, strict=True)
        ]
    )
    samples = []
    for index, (row, decode, prefill) in enumerate(zip(trial.rows, decoded, prefilled, strict=True)):
        assert row.group is not None
        for call, logprobs in enumerate((decode.logprobs, prefill.prompt_logprobs)):
            samples.append(Sample(row.group, trial.number, index, encode(decode.tokens, logprobs), call))
    return samples


def _check(trials: int, options: ModeOptions) -> None:
    if trials < 1:
        raise UsageError(f"trials is {trials}; it must be at least 1")
    if options.n_start < 1:
        raise UsageError(f"n_start is {options.n_start}; it must be at least 1")
    if options.max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {options.max_new_tokens}; the modes need at least 1")
    if not options.prefix_lengths:
        raise UsageError("prefix_lengths is empty; give at least one length")
    if options.long_prompt_tokens is not None and options.long_prompt_tokens < 1:
        raise UsageError(f"long_prompt_tokens is {options.long_prompt_tokens}; it must be at least 1")
