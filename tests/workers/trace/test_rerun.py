"""An operation that parted, kept and run again by itself; how two rows differ."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.workers.trace.tracing import Server, request
from workers.model.numerics import Numerics
from workers.trace.capture import Row, pack, row_of, same_bits
from workers.trace.recorder import Captured, Wish
from workers.trace.rerun import load
from workers.trace.values import row_difference

CPU = torch.device("cpu")
ABOUT: dict[str, object] = {"op": "x", "implementation": "fixed:matmul", "kind": "matmul"}


def captured(server: Server, name: str) -> Captured:
    server.engine.flush_cache()
    server.recorder.capture(Wish(0, name))
    server.engine.generate([request("a")])
    server.recorder.finish()
    assert server.recorder.captured is not None
    return server.recorder.captured


@pytest.mark.parametrize(
    ("name", "kind", "implementation"),
    [
        ("layers.0.self_attn.qkv_a_proj", "fp8_gemm", "farm:invariant"),
        ("layers.1.mlp.gate", "matmul", "fixed:matmul"),
        ("lm_head", "matmul", "fixed:matmul"),
        ("layers.0.self_attn.key_up", "head_matmul", "fixed:head_matmul"),
        ("layers.0.mlp.activation", "silu_multiply", "fixed:silu_multiply"),
        ("layers.1.mlp.expert_sum.0", "weighted_sum", "fixed:weighted_sum"),
    ],
)
def test_what_is_kept_gives_the_same_bits_again(name: str, kind: str, implementation: str, tmp_path: Path) -> None:
    kept = captured(Server(), name)
    row = row_of(kept, 19)
    assert row is not None
    content = pack((kept, copy.deepcopy(kept)), (row, row), {**ABOUT, "kind": kind, "implementation": implementation})
    assert content is not None
    (tmp_path / "op").write_bytes(content)
    operation = load(tmp_path / "op")
    call = operation.call(operation.first, CPU)
    assert call is not None
    assert same_bits((call(),), (kept.output,))
    assert same_bits((operation.second.output[operation.second.rows],), (row.output,))


def test_the_control_gives_more_than_one_output(tmp_path: Path) -> None:
    kept = captured(Server(Numerics("streamk", torch.float32, False)), "layers.0.self_attn.qkv_a_proj")
    row = row_of(kept, 0)
    assert row is not None
    content = pack(
        (kept, copy.deepcopy(kept)), (row, row), {**ABOUT, "kind": "fp8_gemm", "implementation": "farm:streamk"}
    )
    assert content is not None
    (tmp_path / "op").write_bytes(content)
    operation = load(tmp_path / "op")
    call = operation.call(operation.first, CPU)
    assert call is not None
    outputs = set()
    for _ in range(2000):
        outputs.add(call()[operation.first.rows].numpy().tobytes())
        if len(outputs) > 1:
            break
    assert len(outputs) > 1


def test_attention_can_not_be_run_by_itself(tmp_path: Path) -> None:
    kept = captured(Server(), "layers.0.self_attn.attention")
    row = row_of(kept, 3)
    assert row is not None
    content = pack((kept, copy.deepcopy(kept)), (row, row), {**ABOUT, "kind": "attention"})
    assert content is not None
    (tmp_path / "op").write_bytes(content)
    operation = load(tmp_path / "op")
    assert operation.call(operation.first, CPU) is None


def test_rows_of_tokens() -> None:
    x = torch.arange(12.0).view(6, 2)
    own = Captured((x,), x + 1, (), torch.tensor([4, 1, 7]), 9)  # two rows each, of tokens 4, 1 and 7
    row = row_of(own, 1)
    assert row is not None and (row.place, row.count) == (2, 2)
    assert row.output.tolist() == [[5, 6], [7, 8]]
    assert row_of(own, 2) is None and row_of(None, 0) is None
    assert row_of(Captured((x,), x, (), None, 6), 6) is None


def test_too_large_a_file_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.trace.capture.LARGEST", 10)
    x = torch.zeros(2, 2)
    row = Row(0, 1, (x[:1],), x[:1])
    kept = Captured((x,), x, (), None, 2)
    assert pack((kept, kept), (row, row), ABOUT) is None


def test_how_two_rows_differ() -> None:
    first = torch.tensor([[1.0, -0.0, 2.0]])
    second = torch.tensor([[1.0, 0.0, 2.0000005]])
    found = row_difference(first, second)
    assert found is not None
    assert (found.elements, found.differing, found.column, found.max_ulp) == (3, 2, 1, 2)
    assert found.bits == ("0x80000000", "0x00000000")
    assert row_difference(first, first.clone()) is None
    nan = row_difference(first.bfloat16(), torch.tensor([[float("nan"), -0.0, 2.0]]).bfloat16())
    assert nan is not None and nan.max_ulp is None and nan.bits[0] == "0x3f80"
