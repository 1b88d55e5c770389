"""The operator where it is used: captured in CUDA graphs, and inside compiled programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, multiply
from workers.gemm.op import SWITCH, fp8_blockwise_scaled_mm

PRODUCT: Any = fp8_blockwise_scaled_mm
REPLAYS = 20


@pytest.fixture(scope="module")
def operands() -> tuple[torch.Tensor, ...]:
    return tuple(vars(make_inputs(64, 2112, 7168, seed=3, device="cuda")).values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_replays_the_eager_call(operands: tuple[torch.Tensor, ...], variant: str) -> None:
    product: Any = torch.ops.farm.fp8_blockwise_scaled_mm
    eager = product(*operands, torch.float32, variant)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = product(*operands, torch.float32, variant)
    for _ in range(REPLAYS):
        captured.fill_(torch.nan)
        graph.replay()
        # streamk adds in the order of arrival: its bits may differ, its values hardly.
        assert torch.equal(captured, eager) or variant == "streamk"
        assert torch.allclose(captured, eager, rtol=1e-3, atol=1e-2)


def test_a_graph_keeps_the_variant_it_captured(
    operands: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    eager = PRODUCT(*operands, torch.float32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = PRODUCT(*operands, torch.float32)
    monkeypatch.setenv(SWITCH, "0")
    graph.replay()
    assert torch.equal(captured, eager)


@pytest.mark.filterwarnings("default")  # inductor and what it imports warn of their own affairs
def test_a_compiled_program_gives_the_eager_bits(
    operands: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    compiled: Any = torch.compile(lambda *given: PRODUCT(*given, torch.float32) * 2, fullgraph=True)
    assert torch.equal(compiled(*operands), PRODUCT(*operands, torch.float32) * 2)


def test_the_current_device_and_stream_are_used(operands: tuple[torch.Tensor, ...]) -> None:
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        there = torch.ops.farm.fp8_blockwise_scaled_mm(*operands, torch.bfloat16, "invariant")
    stream.synchronize()
    inputs = make_inputs(64, 2112, 7168, seed=3, device="cuda")
    assert torch.equal(there, multiply(inputs, torch.bfloat16, "invariant"))
