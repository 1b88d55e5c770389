from __future__ import annotations

import pytest

from specs.errors import SpecError
from specs.job import Expectation, Mode, Property
from specs.load import dump_job, parse_job
from specs.model_job import ModelJob
from specs.schema import job_schema
from specs.subject import Prompt
from specs.unit import ModelUnit
from tests.specs.examples import VALID as KERNEL

VALID = """\
version: 1
kind: model
name: example
model:
  random: {preset: deepseek-v3-nano}
targets:
  - {name: streamk, gemm: streamk, tp: 2, expect: nondeterministic}
  - {name: one, gemm: invariant, collective: tree, deterministic: true, tp_granularity: 4}
  - {name: two, gemm: invariant, collective: tree, deterministic: true, tp_granularity: 4, tp: 2}
trials: 12
"""


def parsed(text: str, *overrides: str) -> ModelJob:
    job = parse_job(text, "job.yaml", overrides)
    assert isinstance(job, ModelJob)
    return job


def complaints(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parsed(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1
    return VALID.replace(old, new)


def test_defaults_are_those_of_the_modes_page() -> None:
    job = parsed(VALID)
    assert job.modes == list(Mode)
    assert (job.max_new_tokens, job.temperature, job.sampling_seed) == (100, 0.0, 42)
    assert job.prefix_lengths == [1, 511, 2048, 4097] and job.prefix_unit == "chars"
    assert job.target("one").collective == "tree" and job.target("streamk").collective == "nccl"


def test_it_survives_being_written_out() -> None:
    job = parsed(VALID, "tp_invariance=true", "prompts=[a, b]", "compat=sglang")
    assert parse_job(dump_job(job), "dumped") == job


def test_overrides_reach_everything() -> None:
    job = parsed(VALID, "trials=3", "modes=[mixed]", "targets[1].expect={batch_invariance: any}", "timeouts.load=9")
    assert (job.trials, job.modes, job.timeouts.load) == (3, [Mode.MIXED], 9.0)
    assert job.target("one").expectation(Property.BATCH_INVARIANCE) is Expectation.ANY


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials: 12", "trails: 12", "job.yaml:10:1: trails: unknown key: allowed: version, name, "),
        ("trials: 12", "trials: 0", "job.yaml:10:9: trials: 0: allowed: a whole number from 1 to 10000"),
        ("trials: 12", "modes: [mixd]", "10:9: modes[0]: mixd: allowed: single, mixed, prefix, radix_cache, p_vs_d"),
        ("trials: 12", "modes: [mixd]", "; the nearest is mixed"),
        ("trials: 12", "modes: [mixed, mixed]", "modes[1]: mixed is there already, at [0]: leave one out"),
        ("trials: 12", "prefix_lengths: [0]", "prefix_lengths[0]: 0: allowed: a whole number from 1 to 10000000"),
        ("trials: 12", "page_size: 101", "page_size: 101: allowed with mode radix_cache: 1 to 100, since it caches"),
        ("trials: 12", "dtype: fp16", "job.yaml:10:8: dtype: fp16: allowed: bf16 or fp32"),
        ("trials: 12", "prompts: [a]", "prompts: a list of 1: allowed: a list, not empty, of text"),
        ("gemm: streamk", "gemm: streemk", "7:27: targets[0].gemm: streemk: allowed: streamk, "),
        ("gemm: streamk", "gemm: streemk", "; the nearest is streamk"),
        ("name: streamk", "name: one", "job.yaml:8:5: targets[1]: one is there already, at [0]: leave one out"),
        ("expect: nondeterministic", "expect: {run_to_run: any}", "7:52: targets[0].expect.run_to_run: run_to_run: "),
        ("expect: nondeterministic", "expect: {run_to_run: any}", "run_to_run is a property of kind: kernel"),
        ("preset: deepseek-v3-nano", "preset: deepseek-v3-nan", "preset: deepseek-v3-nan: allowed: deepseek-v3-nano, "),
        ("random: {preset: deepseek-v3-nano}", "{}", "model: neither given: allowed: either random: {preset: NAME} "),
        (
            "tp_granularity: 4, tp: 2",
            "tp_granularity: 4, tp: 3",
            "targets[2].tp_granularity: 4: allowed: 1, or a power of two that tp (3) divides",
        ),
    ],
)
def test_a_fault_is_told_with_its_place_what_is_allowed_and_the_nearest(old: str, new: str, message: str) -> None:
    found = complaints(changed(old, new))
    assert len([line for line in found if message in line]) == 1, found


def test_tp_invariance_needs_targets_that_differ_in_tp_alone() -> None:
    assert list(parsed(VALID, "tp_invariance=true").families()) == ["one+two"]
    (only,) = complaints(VALID, "tp_invariance=true", "targets[2].collective=ordered")
    assert "tp_invariance: true: allowed: with two targets or more that differ in name and tp alone" in only


def test_kinds_refuse_each_others_properties() -> None:
    with pytest.raises(SpecError, match=r"tp_invariance: allowed: run_to_run, .*; tp_invariance is a property of kind"):
        parse_job(KERNEL, "job.yaml", ["properties=[tp_invariance]"])
    with pytest.raises(SpecError, match=r"prefill_vs_decode is a property of kind: model"):
        parse_job(KERNEL, "job.yaml", ["variants[0].expect={prefill_vs_decode: any}"])
    assert "tp_invariance" not in str(job_schema()["$defs"]["KernelJob"])


def test_expectations_of_a_family_are_those_of_its_members() -> None:
    job = parsed(VALID, "tp_invariance=true")
    assert job.expectations(Property.TP_INVARIANCE) == {"one+two": Expectation.DETERMINISTIC}
    assert job.expectations(Property.BATCH_INVARIANCE)["streamk"] is Expectation.NONDETERMINISTIC


def test_a_unit_gives_samples_of_its_prompts_and_of_its_family() -> None:
    unit = ModelUnit.model_validate_json(
        '{"index": 0, "variant": "one", "dtype": "bf16", "first_trial": 1, "trials": 2, "seed": 42, "device": "cpu",'
        '"cpus": 1, "gpus": 0,'
        '"estimate_s": 1, "timeout_s": 1, "mode": "p_vs_d", "prompts": ["a"], "family": "one+two"}'
    )
    assert [(group.variant, group.subject, group.property) for group in unit.groups] == [
        ("one", Prompt(Mode.P_VS_D, "a"), Property.PREFILL_VS_DECODE),
        ("one+two", Prompt(Mode.P_VS_D, "a"), Property.TP_INVARIANCE),
    ]
