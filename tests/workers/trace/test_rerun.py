"""An operation that parted, kept and run again by itself; how two rows differ."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.trace.tracing import FIXED, PAGE, Server, request
from workers.gemm.inputs import FP8
from workers.model.numerics import Numerics
from workers.trace.capture import Row, pack, row_of, same_bits
from workers.trace.recorder import Captured, Wish
from workers.trace.rerun import Operation, load
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


def kept_again(kept: Captured, token: int, about: dict[str, object], folder: Path) -> tuple[Operation, Row]:
    """Of both runs the same, through a file."""
    row = row_of(kept, token)
    assert row is not None
    content = pack((kept, copy.deepcopy(kept)), (row, row), {**ABOUT, **about})
    assert content is not None
    (folder / "op").write_bytes(content)
    return load(folder / "op"), row


BY_PIECES = Numerics("invariant", torch.float32, deterministic=True, tp_granularity=2)
ORDINARY = Numerics("invariant", torch.float32, deterministic=False)


@pytest.mark.parametrize(
    ("numerics", "name", "kind", "implementation"),
    [
        (FIXED, "layers.0.self_attn.qkv_a_proj", "fp8_gemm", "farm:invariant"),
        (FIXED, "layers.1.mlp.gate", "matmul", "fixed:matmul"),
        (FIXED, "lm_head", "matmul", "fixed:matmul"),
        (FIXED, "layers.0.self_attn.key_up", "head_matmul", "fixed:head_matmul"),
        (FIXED, "layers.0.mlp.activation", "silu_multiply", "fixed:silu_multiply"),
        (BY_PIECES, "layers.0.mlp.activation", "silu_multiply", "fixed:silu_multiply"),
        (FIXED, "layers.1.mlp.expert_sum.0", "weighted_sum", "fixed:weighted_sum"),
        (FIXED, "layers.1.input_layernorm", "rms_norm", "fixed:rms_norm"),
        (ORDINARY, "layers.0.self_attn.kv_a_layernorm", "rms_norm", "torch:rms_norm"),
        (FIXED, "layers.0.self_attn.kv_a_layernorm", "rms_norm", "fixed:rms_norm"),
        (FIXED, "layers.0.mlp.residual", "residual", "fixed:residual"),
        (FIXED, "layers.0.self_attn.o_proj.quantise", "quantise", "fixed:quantise"),
        (FIXED, "layers.0.self_attn.o_proj.quantise.scales", "quantise", "fixed:quantise"),
        (FIXED, "layers.1.self_attn.attention", "attention", "fixed:attention"),
        (BY_PIECES, "layers.1.self_attn.attention", "attention", "fixed:attention"),
        (ORDINARY, "layers.1.self_attn.attention", "attention", "torch:attention"),
    ],
)
def test_what_is_kept_gives_the_same_bits_again(
    numerics: Numerics, name: str, kind: str, implementation: str, tmp_path: Path
) -> None:
    kept = captured(Server(numerics), name)
    operation, row = kept_again(kept, 19, {"kind": kind, "implementation": implementation}, tmp_path)
    call = operation.call(operation.first, CPU)
    assert call is not None
    assert same_bits((call(),), (kept.output,))
    assert same_bits((operation.second.output[operation.second.rows],), (row.output,))


def test_attention_is_kept_with_the_pages_that_its_step_reads(tmp_path: Path) -> None:
    """Of a step that decodes one sequence beside another's prompt, over pages of which others hold the first."""
    server = Server()
    server.engine.generate([request("earlier", 70, seed=3)])
    server.recorder.capture(Wish(2, "layers.1.self_attn.attention"))
    late = replace(request("late", 40, seed=2), arrives_at_step=2)
    server.engine.generate([request("a", new=6), late])
    server.recorder.finish()
    kept = server.recorder.captured
    assert kept is not None and kept.beside["lengths"].tolist() == [22, 40]
    pages = -(-22 // PAGE) + -(-40 // PAGE)
    assert kept.beside["latents"].shape[:2] == (pages, PAGE)
    operation, _ = kept_again(kept, 0, {"kind": "attention", "implementation": "fixed:attention"}, tmp_path)
    call = operation.call(operation.second, CPU)
    assert call is not None
    assert same_bits((call(),), (kept.output,))


def test_attention_over_other_latents_was_not_given_the_same() -> None:
    """Its queries are equal: in layer 0 they come from the token alone."""
    server = Server()
    kept = captured(server, "layers.0.self_attn.attention")
    for position, differs in ((3, True), (19, True), (20, False)):  # of tokens behind its own it sees nothing
        beside = {name: tensor.clone() for name, tensor in kept.beside.items()}
        place = beside["page_tables"][0, position // PAGE], position % PAGE
        beside["latents"][place] += 1
        rows = row_of(kept, 19), row_of(replace(kept, beside=beside), 19)
        assert rows[0] is not None and rows[1] is not None
        assert same_bits(rows[0].inputs, rows[1].inputs) is not differs


def test_of_many_experts_those_of_the_row_are_kept(tmp_path: Path) -> None:
    experts = torch.tensor([[9, 5], [4, 7], [7, 2]])  # those from 4 to 7 are here
    weights = torch.arange(8.0).view(4, 1, 2).to(FP8), torch.arange(4.0).view(4, 1, 1)
    inputs = torch.ones(3, 2).to(FP8), torch.ones(3, 1), experts
    kept = Captured(inputs, torch.zeros(6, 1), weights, None, 3, {"first_expert": 4})
    grouped: dict[str, object] = {"kind": "fp8_gemm", "implementation": "farm:grouped-invariant"}
    operation, row = kept_again(kept, 2, grouped, tmp_path)
    assert (row.place, row.count) == (4, 2)
    assert operation.first.inputs[2].tolist() == [[-1, -1], [-1, 0], [0, -1]]
    assert [weight.float().tolist() for weight in operation.weights] == [[[[6, 7]]], [[[3]]]]
    assert operation.call(operation.first, CPU) is None  # it is a kernel of the GPU's


def test_the_control_gives_more_than_one_output(tmp_path: Path) -> None:
    kept = captured(Server(Numerics("streamk", torch.float32, False)), "layers.0.self_attn.qkv_a_proj")
    operation, _ = kept_again(kept, 0, {"kind": "fp8_gemm", "implementation": "farm:streamk"}, tmp_path)
    call = operation.call(operation.first, CPU)
    assert call is not None
    outputs = set()
    for _ in range(2000):
        outputs.add(call()[operation.first.rows].numpy().tobytes())
        if len(outputs) > 1:
            break
    assert len(outputs) > 1


@pytest.mark.parametrize("name, kind", [("layers.0.self_attn.all_reduce", "all_reduce"), ("embed_tokens", "embedding")])
def test_what_can_not_be_run_by_itself(name: str, kind: str, tmp_path: Path) -> None:
    operation, _ = kept_again(captured(Server(), name), 3, {"kind": kind}, tmp_path)
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
