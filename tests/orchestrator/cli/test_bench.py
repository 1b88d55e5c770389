from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.speed import speed_document
from specs.errors import ExitCode
from specs.shapes import Shape
from tests.orchestrator.cli.farm import farm
from workers.bench_gpu import Cell
from workers.ceilings import Rates
from workers.environment import capture
from workers.timing import LaunchTimes

RATES = Rates(4.8e12, 1.979e15, "measured")


def document(cells: int) -> dict[str, Any]:
    times = {"invariant": LaunchTimes((5e-6,), 100, True), "deep-gemm": LaunchTimes((1e-5,), 100, True)}
    refused = {"sgl-kernel": "not today"}
    made = [Cell(Shape(2**m, 7168, 2112), 3e-6, times, refused) for m in range(cells)]
    return speed_document(capture(torch.device("cpu"), "key"), RATES, RATES, made)


def test_a_gpu_that_is_not_there_is_not_waited_for() -> None:
    code, _, err = farm("bench", "--device", "cuda")
    assert code == ExitCode.INFRASTRUCTURE
    assert "sees no CUDA GPU" in err and "--device cpu" in err


def test_the_table_of_a_gpu_is_written_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, lengths = tmp_path / "speed.json", list[int]()

    def documents() -> Iterator[tuple[int, dict[str, Any]]]:
        for cells in (1, 3):
            yield 3, document(cells)
            lengths.append(len(json.loads(output.read_text())["cells"]))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("orchestrator.bench.bench_gpu_documents", documents)
    code, out, err = farm("bench", "--output", str(output))
    assert code == 0
    assert lengths == [1, 3]
    assert "3 of 3 shapes measured" in err
    assert "4x7168x2112" in out and "60" in out
    assert "fastest peer's time / ours, up to 128 tokens: 2.000" in out
    assert "worst: 2.000 at 1x7168x2112, against deep-gemm" in out


def test_the_cpu_is_measured_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = {
        "target": "invariant",
        "shape": [1, 128, 8],
        "median_seconds": 1e-3,
        "quartiles_seconds": [1e-3, 2e-3],
        "gigaflops": 3.0,
        "times_torch_fp32": 1.5,
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "orchestrator.bench.bench_cpu_document", lambda: {"gemm": [timed], "observations_per_second": 2e6}
    )
    code, out, _ = farm("bench", "--device", "cpu", "--output", str(tmp_path / "cpu.json"))
    assert code == 0
    assert "1x128x8" in out and "2.00 million observations" in out
    assert json.loads((tmp_path / "cpu.json").read_text())["gemm"] == [timed]
