"""The operator where it is used: captured in CUDA graphs, and inside compiled programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, multiply
from workers.gemm.op import SWITCH, fp8_blockwise_scaled_mm
from workers.gemm.target import GemmInputs

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
    product: Any = torch.ops.farm.fp8_blockwise_scaled_mm
    wanted = product(*operands, torch.bfloat16, "invariant")
    mat_a, *others = operands
    late = torch.zeros_like(mat_a)
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # a tenth of a second: on another stream the product would be of zeros
        late.copy_(mat_a)
        there = product(late, *others, torch.bfloat16, "invariant")
    stream.synchronize()
    assert torch.equal(there, wanted)


def test_operands_may_be_on_another_gpu_than_the_current(operands: tuple[torch.Tensor, ...]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs, and torch sees 1")
    inputs = make_inputs(64, 2112, 7168, seed=3, device="cuda:1")
    for variant in VARIANTS:
        there = multiply(inputs, torch.float32, variant)
        assert there.device.index == 1 and torch.cuda.current_device() == 0
    ours = multiply(inputs, torch.float32, "invariant")
    assert torch.equal(ours.cpu(), multiply(GemmInputs(*operands), torch.float32, "invariant").cpu())


@pytest.mark.parametrize("name", ["mat_a", "mat_b"])
def test_rows_that_tensor_copies_can_not_read_are_refused_by_name(name: str) -> None:
    inputs = vars(make_inputs(64, 256, 512, seed=3, device="cuda"))
    tensor = inputs[name] if name == "mat_a" else inputs[name].t()
    wider = torch.zeros(tensor.shape[0], tensor.shape[1] + 8, dtype=tensor.dtype, device="cuda")[:, : tensor.shape[1]]
    given = inputs | {name: wider if name == "mat_a" else wider.t()}
    with pytest.raises(ValueError, match=rf"{name} begins 0 bytes .* is 520 bytes; on a GPU both must be multiples"):
        PRODUCT(*given.values(), torch.bfloat16)
