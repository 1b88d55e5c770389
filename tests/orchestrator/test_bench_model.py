from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import bench_model
from orchestrator.bench_model import bench_model_documents
from orchestrator.cli.bench import BenchModel
from tests.orchestrator.cli.farm import farm
from workers import bench_collectives
from workers.bench_model import ModelBench
from workers.model.config import PRESETS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "BATCHES", (1, 3))
    monkeypatch.setattr(bench_model, "CONTEXT", 40)
    monkeypatch.setattr(bench_model, "PREFILL", 40)
    reduces = bench_collectives.bench_collectives
    few = (1, 5)
    monkeypatch.setattr(bench_collectives, "GROUPS", (("nccl", "ordered"),))
    monkeypatch.setattr(bench_collectives, "bench_collectives", lambda setting: reduces(replace(setting, tokens=few)))


def test_the_command_prints_and_writes_what_was_measured(tmp_path: Path) -> None:
    output = tmp_path / "model.json"
    code, out, err = farm("bench", "--device", "cpu", "--model", "deepseek-v3-nano", "--output", str(output))
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == ["deterministic", "ordinary", "all-reduces measured"]
    document = json.loads(output.read_text())
    assert document["model"] == "deepseek-v3-nano" and document["environment"]["device"] == "cpu"
    for way in document["ways"].values():
        assert [row["batch"] for row in way["decode"]] == [1, 3] and not way["failures"]
        assert all(row["tokens_per_second"] == pytest.approx(row["batch"] / row["seconds"]) for row in way["decode"])
        assert f"{way['decode'][1]['seconds'] * 1e3:.3f}" in out
    ours, other = (document["ways"][name] for name in ("deterministic", "ordinary"))
    cost = document["cost_of_determinism"]
    assert cost["decode"]["3"] == ours["decode"][1]["seconds"] / other["decode"][1]["seconds"]
    assert cost["prefill"] == ours["prefill"]["seconds"] / other["prefill"]["seconds"]
    assert f"{cost['decode']['3']:.2f} at 3" in out
    assert {row["collective"] for row in document["all_reduce"]["times"]} == {"nccl", "ordered"}
    assert "gloo:all_reduce" in out


def test_a_part_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ModelBench, tokens: int) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(ModelBench, "prefill", refuse)
    monkeypatch.setattr(bench_model, "WAYS", bench_model.WAYS | {"ordinary": bench_model.Way("no such", False)})
    monkeypatch.setattr(bench_model, "CPU_RANKS", 1)
    *_, (_, document) = bench_model_documents("deepseek-v3-nano", "cpu")
    ours, other = document["ways"].values()
    assert ours["failures"] == ["prefill of 40 tokens: RuntimeError: out of memory"] and len(ours["decode"]) == 2
    assert other["failures"][0].startswith("model: ") and "no such" in other["failures"][0]
    assert document["cost_of_determinism"] == {"decode": {}, "prefill": None}
    assert document["all_reduce"]["failures"] == {"all": "needs two ranks, and this host has 1"}


def test_the_command_knows_every_preset() -> None:
    assert {model.value for model in BenchModel} == PRESETS.keys()
