from __future__ import annotations

import json

import pytest

from specs.errors import UsageError
from specs.job import Mode
from tests.orchestrator.builders import model_job
from workers.drawing import FIRST_ROW, batches_text, counted_as, drawn, prompt_names, read_prompts
from workers.engine.modes import Sample
from workers.engine.prompts import own_prompts
from workers.engine.tokenizer import ByteTokenizer


def test_mixed_and_prefix_of_fifty_batches_hold_1275_samples() -> None:
    job = model_job(trials=50)
    for mode in (Mode.SINGLE, Mode.MIXED, Mode.PREFIX):
        trials = drawn(job, mode, own_prompts(42), ByteTokenizer(), vocab_size=256, longest=400)
        assert sum(len(trial.rows) for trial in trials) == 1275


def test_a_spec_says_with_how_many_requests_prefix_begins() -> None:
    job = model_job(modes=["prefix"], n_start=5)
    trials = drawn(job, Mode.PREFIX, own_prompts(42), ByteTokenizer(), vocab_size=256, longest=400)
    assert [len(trial.rows) for trial in trials] == [5, 6, 7]


def test_names_are_known_without_the_texts() -> None:
    job = model_job(trials=12, long_prompt_file="/nowhere", prefix_lengths=[7, 100_000])
    names = prompt_names(job, Mode.MIXED)
    assert list(names[0]) == ["prompt 1"]
    assert all("long prompt" not in batch for batch in names[:10]) and "long prompt" in names[11]
    prefixes = {name for batch in prompt_names(job, Mode.PREFIX) for name in batch}
    assert prefixes == {"prefix length 7", "prefix length 100000"}


def test_pairs_are_items_of_one_name() -> None:
    job = model_job(trials=4)
    trials = drawn(job, Mode.P_VS_D, own_prompts(42), ByteTokenizer(), vocab_size=256, longest=400)
    found = [
        counted_as(job, Sample(str(row.group), trial.number, place, b""), Mode.P_VS_D)
        for trial in trials
        for place, row in enumerate(trial.rows)
    ]
    assert found == [[("decoded vs prefilled", item)] for item in range(1 + 2 + 3 + 4)]


def test_the_first_row_of_single_is_counted_apart_where_sglang_does() -> None:
    first, second = (Sample("prompt 1", 3, row, b"") for row in (0, 1))
    assert counted_as(model_job(), first, Mode.SINGLE) == [("prompt 1", 0)]
    sglang = model_job(compat="sglang")
    assert counted_as(sglang, first, Mode.SINGLE) == [("prompt 1", 0), (FIRST_ROW, 0)]
    assert counted_as(sglang, second, Mode.SINGLE) == [("prompt 1", 0)]


def test_a_spec_can_give_its_own_prompts(tmp_path: pytest.TempPathFactory) -> None:
    file = f"{tmp_path}/long.txt"
    with open(file, "w") as text:
        text.write("long")
    prompts = read_prompts(model_job(prompts=["a", "b"], long_prompt_file=file))
    assert (prompts.prompt_1, prompts.prompt_2, prompts.long) == ("a", "b", "long")
    with pytest.raises(UsageError, match=r"long_prompt_file /nowhere can't be read"):
        read_prompts(model_job(long_prompt_file="/nowhere"))


def test_without_sglang_its_prompts_can_not_be_had() -> None:
    with pytest.raises(UsageError, match=r"compat: sglang needs the package sglang"):
        read_prompts(model_job(compat="sglang"))


def test_what_was_drawn_is_kept_as_json() -> None:
    trials = drawn(model_job(), Mode.MIXED, own_prompts(42), ByteTokenizer(), vocab_size=256, longest=400)
    kept = json.loads(batches_text(trials))
    assert [len(batch["rows"]) for batch in kept] == [1, 2, 3]
    assert kept[0]["rows"][0]["group"] == "prompt 1" and kept[0]["rows"][0]["prompt_tokens"] > 10
