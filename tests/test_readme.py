"""The README shows what commands really printed: its output blocks and figures come from docs/results/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def results(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "docs" / "results" / name).read_text())
    return document


def test_the_demo_is_the_one_that_was_run() -> None:
    demo = [line.rstrip() for line in (ROOT / "docs" / "results" / "demo.txt").read_text().splitlines()]
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    lines = [line.rstrip() for line in shown[1].splitlines() if line.strip() not in ("", "…")]
    assert len(lines) > 10
    assert [line for line in lines if line not in demo] == []


def test_the_model_run_is_the_one_that_was_run() -> None:
    ran = {line.rstrip() for line in (ROOT / "docs" / "results" / "model-nano.txt").read_text().splitlines()}
    shown = re.search(r"## Models.*?```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    lines = [line.rstrip() for line in shown[1].splitlines() if line.strip() != "…"]
    assert len(lines) > 10
    assert [line for line in lines if line not in ran] == []


def test_the_models_speed_is_that_of_the_file() -> None:
    bench = results("h200-x2-model-bench.json")
    deterministic, costs = bench["ways"]["deterministic"], bench["cost_of_determinism"]["decode"].values()
    engines = [step["engine"] for step in deterministic["decode"]]
    floors = [engine["times_floor"] for engine in engines]
    assert max(floors) <= 1.5  # what was asked for
    assert f"takes {min(floors):.2f} to {max(floors):.2f} times the time to read the weights" in README
    traced = [engine["traced_seconds"] / engine["seconds"] for engine in engines]
    assert max(traced) <= 1.3  # what was asked for
    assert f"A traced step takes {min(traced):.2f} to {max(traced):.2f} times as long." in README
    assert f"{min(costs):.2f} to {max(costs):.2f} of the time of the ordinary operations" in README
    share = deterministic["prefill"]["gemm_share"]
    assert share >= 0.7 and f"{share:.0%} of prefill".replace("%", " %") in README


def test_ordered_sums_are_as_fast_as_they_were_measured() -> None:
    times = results("h200-x2-model-bench.json")["all_reduce"]["times"]
    sums = {(each["collective"], each["tokens"]): each for each in times}
    for (collective, tokens), each in sums.items():
        for way in ("call_seconds", "graph_seconds"):  # as the README says
            assert collective != "ordered" or each[way] < sums["nccl", tokens][way]


def times_torch(name: str) -> list[float]:
    """Of the farm's kernels on the seed's two shapes."""
    timings = results(name)["gemm"]
    seeds = [timing for timing in timings if timing["shape"] in ([1024, 4096, 1024], [2048, 2048, 2048])]
    return [timing["times_torch_fp32"] for timing in seeds if timing["target"] != "torch-fp32"]


def test_the_cpu_kernels_are_as_fast_as_they_were_measured() -> None:
    ratios = times_torch("cpu-bench.json")
    assert f"the four variants are {min(ratios):.1f} to {max(ratios):.1f} times as fast as torch's" in README
    of_avx2 = times_torch("cpu-bench-avx2.json")
    assert f"{min(of_avx2):.2f} to {max(of_avx2):.2f} times ([`cpu-bench-avx2.json`]" in README
    assert min(ratios) >= 1  # what was asked for: at least torch's


def answered(name: str, control: str) -> tuple[dict[str, Any], str]:
    """The control's results by mode, and the least and the most that `invariant`, with one answer everywhere, costs."""
    configurations = results(name)["summary"]["configurations"]
    ours = [one for one in configurations if one["target"] == "invariant"]
    assert [one["unique"] for one in ours] == [1] * 6
    modes = {one["mode"]: one for one in configurations if one["target"] == control}
    assert [modes[mode]["total"] for mode in ("single", "mixed", "prefix")] == [1275] * 3
    costs = [one["cost"] for one in ours]
    return modes, f"{min(costs):.2f} to {max(costs):.2f} of the time"


def test_the_model_on_an_h200_answered_as_the_readme_says() -> None:
    modes, cost = answered("h200-model.json", "sgl-kernel")
    assert f"one in all six modes, and {cost}" in README
    assert f"{modes['single']['unique']} distinct answers of 1275 in `single`" in README
    mixed, prefix = modes["mixed"]["unique"], modes["prefix"]["unique"]
    assert f"up to {mixed} and {prefix} of one prompt in `mixed` and `prefix`" in README
    firsts = [one["first_divergence"] for one in modes.values()]
    assert sum("qkv_a_proj (fp8_gemm by sgl-kernel" in first for first in firsts) > len(firsts) / 2


def test_the_model_on_two_h200s_answered_as_the_readme_says() -> None:
    modes, cost = answered("h200-x2-model-mini.json", "streamk")
    assert f"one in all six modes on two GPUs, and {cost}" in README
    single, mixed, prefix = (modes[mode]["unique"] for mode in ("single", "mixed", "prefix"))
    assert f"{single} distinct answers of 1275 in `single`, up to {mixed} and {prefix} of one prompt" in README


def test_the_h200_figures_are_those_of_the_files() -> None:
    determinism, speed = results("h200-determinism.json")["summary"], results("h200-speed.json")["summary"]
    assert determinism["unique_max"] == 1
    assert f"{determinism['launches']:,} launches" in README
    assert f"at least {determinism['control_unique_min']:,} of 60,000" in README
    assert f"{results('h200-deepseek.json')['summary']['launches']:,} launches" in README
    assert f"geometric mean: {speed['geomean_small_m']:.2f} for m up to 128" in README
    assert f"**{speed['geomean_large_m']:.2f} for m of 512 and more**" in README
    m, k, n = speed["worst_cell"]["shape"]
    assert f"Worst: {speed['worst_cell']['ratio']:.2f} at ({m}, {k}, {n})" in README
    costs = [
        row["cost"]
        for row in results("h200-detect.json")["judgement"]["speeds"]
        if row["variant"] == "invariant" and row["dtype"] == "bf16" and row["shape"]["k"] > 4096
    ]
    assert f"takes {min(costs):.2f} to {max(costs):.2f} of the time" in README
    batches = results("h200-batches.json")["judgement"]["verdicts"]
    rows = {v["total"] for v in batches if v["property"] == "batch_invariance" and v["outcome"] != "unsupported"}
    assert [f"{count:,} rows" in README for count in rows] == [True]
    cublas = {str(v["shape"]) for v in batches if v["variant"] == "torch-scaled-mm" and v["flips"]}
    assert f"rows differ on {len(cublas)} of the 11 weights" in README


def test_the_h200_figures_are_of_one_build_of_the_kernels() -> None:
    files = (ROOT / "docs" / "results").glob("h200-*.json")
    builds = {file.name: set(re.findall(r'"kernel_build": "(\w+)"', file.read_text())) for file in files}
    assert len(builds) >= 9
    assert len(set.union(*builds.values())) == 1 and all(builds.values()), builds


def test_the_count_of_tests_is_that_of_the_last_recorded_run() -> None:
    last = (ROOT / "docs" / "results" / "test.txt").read_text().splitlines()[-1]
    assert f"all tests: {last.split(' in ')[0]}" in README
