from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.errors import UsageError
from specs.job import Mode
from specs.model_job import PrefixUnit
from tests.workers.engine.building import engine
from workers.engine.modes import (
    FIXED_PROMPT_TOKENS,
    ModeOptions,
    Sample,
    Trial,
    draw,
    play,
)
from workers.engine.prompts import Prompts, own_prompts
from workers.engine.request import Completion, Request
from workers.engine.samples import decode
from workers.engine.tokenizer import ByteTokenizer

PROMPTS = own_prompts(0)
OPTIONS = ModeOptions(vocab_size=320, max_new_tokens=16)


def drawn(mode: Mode, trials: int = 50, seed: int = 0, options: ModeOptions = OPTIONS) -> list[Trial]:
    return draw(mode, trials, seed, PROMPTS, ByteTokenizer(), options)


def totals(trials: list[Trial]) -> Counter[str | None]:
    return Counter(row.group for trial in trials for row in trial.rows)


@dataclass
class Recording:
    """A generator that notes what it is asked, and answers with token 7, as likely as there were calls before."""

    calls: list[list[Request] | str] = field(default_factory=list)

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.calls.append(requests)
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Completion:
        scored = 0 if request.logprobs_from is None else len(request.tokens) - request.logprobs_from
        value = -float(len(self.calls))
        return Completion(
            label=request.label,
            tokens=(7,) * request.max_new_tokens,
            logprobs=np.full(request.max_new_tokens, value, dtype=np.float32),
            prompt_logprobs=np.full(scored, value, dtype=np.float32),
            finish="length",
            cached_tokens=0,
            preemptions=0,
        )

    def flush_cache(self) -> None:
        self.calls.append("flush")


def values(sample: Sample) -> list[float]:
    return [float(logprob) for logprob in decode(sample.data)[1]]


def test_single_sends_prompt_1_once_more_each_time() -> None:
    trials = drawn(Mode.SINGLE)
    assert totals(trials) == {"prompt 1": 1275}
    assert [len(trial.rows) for trial in trials] == list(range(1, 51))
    assert trials[2].rows[2].request.tokens == tuple(PROMPTS.prompt_1.encode())
    assert [row.request.label for row in trials[2].rows] == ["prompt 1 #1", "prompt 1 #2", "prompt 1 #3"]


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers())
def test_mixed_and_prefix_have_a_row_more_in_every_batch(n: int, seed: int) -> None:
    for mode in (Mode.MIXED, Mode.PREFIX):
        trials = drawn(mode, n, seed)
        assert sum(totals(trials).values()) == n * (n + 1) // 2
        assert [trial.number for trial in trials] == list(range(1, n + 1))


@given(st.integers(1, 60), st.integers())
def test_mixed_draws_as_its_table_says(number: int, seed: int) -> None:
    trial = drawn(Mode.MIXED, number, seed)[-1]
    groups = [row.group for row in trial.rows]
    count = Counter(groups)
    assert (
        groups
        == ["prompt 1"] * count["prompt 1"] + ["prompt 2"] * count["prompt 2"] + ["long prompt"] * count["long prompt"]
    )
    assert count["prompt 1"] >= 1
    if number <= 10:
        assert count["long prompt"] == 0
    else:
        assert 1 <= count["long prompt"] <= 10


def test_mixed_reaches_both_ends_of_its_ranges() -> None:
    trials = [drawn(Mode.MIXED, 11, seed)[-1] for seed in range(300)]
    counts = [Counter(row.group for row in trial.rows) for trial in trials]
    assert {count["long prompt"] for count in counts} == set(range(1, 11))
    assert min(count["prompt 1"] for count in counts) == 1
    assert max(count["prompt 1"] for count in counts) == 10
    assert min(count["prompt 2"] for count in counts) == 0


def test_prefix_sends_beginnings_of_the_long_prompt() -> None:
    trials = drawn(Mode.PREFIX)
    assert set(totals(trials)) == {f"prefix length {length}" for length in (1, 511, 2048, 4097)}
    for row in trials[-1].rows:
        length = int(str(row.group).split()[-1])
        assert row.request.tokens == tuple(PROMPTS.long[:length].encode())


def test_prefix_can_start_with_a_larger_batch() -> None:
    trials = drawn(Mode.PREFIX, 3, options=replace(OPTIONS, n_start=5))
    assert [len(trial.rows) for trial in trials] == [5, 6, 7]


def test_prefix_lengths_are_characters_or_tokens() -> None:
    # Three bytes, and so tokens, for each character.
    prompts = Prompts("a", "b", "\u20ac" * 10)
    for unit, tokens in ((PrefixUnit.CHARS, 12), (PrefixUnit.TOKENS, 4)):
        options = ModeOptions(320, prefix_lengths=(4,), prefix_unit=unit)
        (trial,) = draw(Mode.PREFIX, 1, 0, prompts, ByteTokenizer(), options)
        assert len(trial.rows[0].request.tokens) == tokens


def test_prefix_flushes_before_each_batch_and_single_does_not() -> None:
    generator = Recording()
    play(drawn(Mode.PREFIX, 1)[0], generator)
    assert [call == "flush" for call in generator.calls] == [True, False]
    generator = Recording()
    play(drawn(Mode.SINGLE, 1)[0], generator)
    assert "flush" not in generator.calls


def test_every_row_is_a_sample_with_its_tokens_and_logprobs() -> None:
    samples = play(drawn(Mode.SINGLE, 3)[2], Recording())
    assert [(sample.group, sample.trial, sample.row) for sample in samples] == [
        ("prompt 1", 3, row) for row in range(3)
    ]
    tokens, logprobs = decode(samples[0].data)
    assert (tokens.tolist(), logprobs.tolist()) == ([7] * 16, [-1.0] * 16)


def test_radix_cache_compares_a_warm_cache_with_an_empty_one() -> None:
    trial = drawn(Mode.RADIX_CACHE, 2)[1]
    ids = trial.rows[0].request.tokens
    assert len(ids) == 100
    generator = Recording()
    samples = play(trial, generator)
    sent = [call if isinstance(call, str) else (call[0].tokens, call[0].max_new_tokens) for call in generator.calls]
    assert sent == [(ids, 1), "flush", (ids, 2), ((*ids, 7), 1), "flush", ((*ids, 7), 1)]
    assert {sample.group for sample in samples} == {"cached vs uncached, ids 2"}
    # Those of the fourth and the sixth call.
    assert [values(sample) for sample in samples] == [[-4.0], [-6.0]]


def test_p_vs_d_sends_its_answers_back_as_prompts() -> None:
    trial = drawn(Mode.P_VS_D, 5)[4]
    generator = Recording()
    samples = play(trial, generator)
    begin, decoded, flush, prefilled = generator.calls
    assert begin == flush == "flush"  # what the batch before prefilled would take the place of what is decoded
    assert isinstance(decoded, list) and isinstance(prefilled, list)
    for first, second in zip(decoded, prefilled, strict=True):
        assert second.tokens == first.tokens + (7,) * 16
        assert (second.logprobs_from, second.max_new_tokens) == (len(first.tokens), 0)
    assert [sample.group for sample in samples] == [f"sequence 5.{i}" for i in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
    assert [values(sample) for sample in samples[:2]] == [[-2.0] * 16, [-4.0] * 16]


def test_p_vs_d_has_the_three_prompts_and_then_parts_of_the_long_one() -> None:
    trials = drawn(Mode.P_VS_D, 40)
    assert [len(trial.rows) for trial in trials] == list(range(1, 41))
    prompts = [row.request.tokens for row in trials[-1].rows]
    whole = PROMPTS.long.encode()
    assert prompts[:3] == [tuple(text.encode()) for text in (PROMPTS.prompt_1, PROMPTS.prompt_2, PROMPTS.long)]
    assert all(bytes(prompt) in whole for prompt in prompts[3:])
    beginnings = sum(whole.startswith(bytes(prompt)) for prompt in prompts[3:])
    assert 8 < beginnings < 29


def test_neighbour_varies_all_but_the_fixed_prompt() -> None:
    trials = drawn(Mode.NEIGHBOUR)
    fixed = [row.request for trial in trials for row in trial.rows if row.group == "fixed prompt"]
    assert len(fixed) == 50
    assert {replace(request, arrives_at_step=0) for request in fixed} == {fixed[0]}
    assert len(fixed[0].tokens) == FIXED_PROMPT_TOKENS
    others = [row.request for trial in trials for row in trial.rows if row.group is None]
    assert len(trials[0].rows) == 1
    assert {len(trial.rows) for trial in trials[1:]} == set(range(2, 10))
    assert len({request.arrives_at_step for request in others}) > 10
    assert {len(request.tokens) for request in others} == {1, 40, 300, 1200}
    assert not any(request.tokens[:64] == fixed[0].tokens[:64] for request in others)
    places = {[row.group for row in trial.rows].index("fixed prompt") for trial in trials}
    assert len(places) > 4


def test_neighbours_are_no_samples() -> None:
    samples = play(drawn(Mode.NEIGHBOUR, 5)[4], Recording())
    assert [sample.group for sample in samples] == ["fixed prompt"]


@pytest.mark.parametrize("mode", Mode)
def test_draws_are_those_of_their_seed_and_trial(mode: Mode) -> None:
    assert drawn(mode, 20) == drawn(mode, 20)
    assert drawn(mode, 20)[:5] == drawn(mode, 5)
    if mode not in (Mode.SINGLE,):
        assert drawn(mode, 20) != drawn(mode, 20, seed=1)


@pytest.mark.parametrize("mode", Mode)
def test_sampling_is_as_the_options_say(mode: Mode) -> None:
    options = ModeOptions(320, max_new_tokens=3, temperature=0.5, sampling_seed=9, long_prompt_tokens=30)
    for row in drawn(mode, 12, options=options)[-1].rows:
        request = row.request
        assert (request.temperature, request.sampling_seed) == (0.5, 9)
        assert request.max_new_tokens == 3 or row.group is None
        assert mode is Mode.PREFIX or len(request.tokens) <= max(30, len(PROMPTS.prompt_2), 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_start": 0}, "n_start is 0; it must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; the modes need at least 1"),
        ({"prefix_lengths": ()}, "prefix_lengths is empty; give at least one length"),
        ({"long_prompt_tokens": 0}, "long_prompt_tokens is 0; it must be at least 1"),
        ({"prefix_lengths": (1, 99999)}, "prefix_lengths has 99999; the long prompt has 1 to 32019 chars"),
        (
            {"prefix_lengths": (101,), "prefix_unit": PrefixUnit.TOKENS, "long_prompt_tokens": 100},
            "prefix_lengths has 101; the long prompt has 1 to 100 tokens",
        ),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        drawn(Mode.PREFIX, options=replace(OPTIONS, **options))  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_trials_and_prompts_are_needed() -> None:
    with pytest.raises(UsageError, match="trials is 0; it must be at least 1"):
        drawn(Mode.SINGLE, 0)
    with pytest.raises(UsageError, match="prompt 2 has no tokens; give it some text"):
        draw(Mode.SINGLE, 1, 0, Prompts("a", "", "c"), ByteTokenizer(), OPTIONS)


@pytest.mark.parametrize("mode", Mode)
def test_a_deterministic_engine_gives_one_sample_per_group(mode: Mode) -> None:
    options = ModeOptions(320, max_new_tokens=6, prefix_lengths=(1, 40, 300), long_prompt_tokens=700)
    runner, seen = engine(pages=1024, chunk=128), dict[str, set[bytes]]()
    number = 12 if mode is Mode.MIXED else 4
    for trial in drawn(mode, number, options=options)[-4:]:
        for sample in play(trial, runner):
            seen.setdefault(sample.group, set()).add(sample.data)
    assert all(len(digests) == 1 for digests in seen.values())
    assert len(seen) == {Mode.SINGLE: 1, Mode.MIXED: 3, Mode.PREFIX: 3, Mode.RADIX_CACHE: 4}.get(mode, len(seen))


def test_plans_can_be_drawn_without_torch() -> None:
    program = "import sys, workers.engine.modes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
