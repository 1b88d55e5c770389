"""What is digested, when, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.workers.trace.tracing import PAGE, Server, request
from workers.model.recorder import KINDS
from workers.model.step import Step
from workers.trace.digests import Digester, flat_bytes, flat_rows, rows_of, weight_digest
from workers.trace.recorder import TraceRecorder, Wish
from workers.trace.trace import Digests


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


def a_step(tokens: int) -> Step:
    each = torch.arange(tokens)
    return Step(each, each, each, (0, tokens), (tokens,), torch.zeros(1, 1, dtype=torch.int32), each[-1:], ("a",))


def row_digests(*tensors: torch.Tensor) -> list[Digests]:
    """Each by itself, contiguous."""
    digester, copies = Digester(torch.device("cpu")), [tensor.contiguous() for tensor in tensors]
    for copy in copies:
        digester.rows(copy, flat_rows(copy))
    return digester.finish()


def test_digests_are_of_rows_whatever_tensor_they_are_in() -> None:
    digester, matrix = Digester(torch.device("cpu")), torch.randn(5, 8)
    for tensor in (matrix, matrix[:, 2:7], matrix.view(5, 2, 4), torch.arange(6), matrix[:0]):
        rows = rows_of(tensor)
        assert rows is not None
        digester.rows(tensor, rows)
    whole, part, folded, column, nothing = digester.finish()
    assert np.array_equal(whole, folded) and nothing.shape == (0, 2)
    assert np.array_equal(part, row_digests(matrix[:, 2:7])[0])
    assert np.array_equal(column, row_digests(torch.arange(6)[:, None])[0])
    assert len({row.tobytes() for row in (*whole, *part, *column)}) == 16
    assert digester.finish() == []


def test_rows_with_gaps_in_them_are_no_ranges_of_memory() -> None:
    assert rows_of(torch.randn(3, 4).t()) is None
    assert rows_of(torch.randn(3, 4, 6)[:, :, :2]) is None


def test_more_rows_than_an_arena_holds() -> None:
    many = torch.arange(150_000)
    digester = Digester(torch.device("cpu"))
    for part in many.split(50_000):
        digester.rows(part, flat_rows(part))
    assert np.array_equal(np.concatenate(digester.finish()), row_digests(many)[0])


def test_one_element_may_have_any_strides() -> None:
    one = torch.empty_strided((1, 1), (1, 20)).fill_(3.0)
    assert flat_bytes(one).view(torch.float32).tolist() == [3.0]


def test_a_weight_may_be_the_transpose_of_what_is_in_memory() -> None:
    weight = torch.randn(4, 6)
    found = weight_digest(weight)
    assert weight_digest(weight.t()) == found
    weight[0, 0] = -weight[0, 0]
    assert weight_digest(weight.t()) != found


def test_an_input_that_was_an_output_is_not_read_again_and_memory_used_anew_is() -> None:
    recorder = TraceRecorder(torch.device("cpu"), PAGE)
    recorder.trace()
    recorder.begin(a_step(2))
    first = torch.ones(2, 3)
    recorder.op("first", "rope", "test", (torch.zeros(2, 1),), first)
    view = first.view(2, 1, 3)
    del first
    view[0, 0, 0] = 2.0  # nobody may do so; here it shows that the digest is that of before
    recorder.op("second", "rope", "test", (view,), torch.zeros(2, 1))
    del view
    other = torch.full((2, 3), 5.0)
    recorder.op("third", "rope", "test", (other,), torch.zeros(2, 1))
    ops = recorder.finish().steps[0].by_name
    assert np.array_equal(ops["second"].inputs[0], ops["first"].output)
    assert np.array_equal(ops["third"].inputs[0], row_digests(torch.full((2, 3), 5.0))[0])


def test_what_is_written_over_an_output_is_told_as_another() -> None:
    recorder = TraceRecorder(torch.device("cpu"), PAGE)
    recorder.trace()
    recorder.begin(a_step(2))
    turned = torch.randn(3, 2).t()
    recorder.op("first", "rope", "test", (torch.zeros(2, 1),), turned)
    turned += 1.0
    recorder.op("second", "rope", "test", (turned,), turned)
    ops = recorder.finish().steps[0].by_name
    assert np.array_equal(ops["second"].inputs[0], ops["first"].output)
    assert np.array_equal(ops["second"].output, row_digests(turned)[0])


def test_the_engine_and_its_model_tell_of_every_kind(server: Server) -> None:
    trace = server.trace(request("a", new=2), request("b", 7, seed=1))
    assert {op.kind for step in trace.steps for op in step.ops} == set(KINDS)
    step = trace.steps[0]
    assert (step.labels, step.call, step.count, step.lengths) == (("a", "b"), 0, 27, (20, 7))
    assert [step.sequence_of(row) for row in (0, 19, 20, 26)] == [0, 0, 1, 1]
    assert step.by_name["layers.0.self_attn.qkv_a_proj"].gemm_shape == (27, 320, 1024)
    assert step.by_name["norm"].gemm_shape is None
    assert all(op.weights for op in step.ops if op.kind in ("fp8_gemm", "rms_norm", "embedding", "head_matmul"))


def test_an_expert_saw_some_tokens_and_knows_which(server: Server) -> None:
    step = server.trace(request("a", new=1)).steps[0]
    routed = step.by_name["layers.1.mlp.router.experts"]
    experts = [op for op in step.ops if op.name.endswith(".gate_up_proj") and ".experts." in op.name]
    assert len(routed.output) == 20 and sum(len(op.output) for op in experts) == 20 * 4
    for op in experts:
        assert op.tokens is not None
        places = op.places(20)
        assert (places[op.tokens] == np.arange(len(op.tokens))).all() and (places < 0).sum() == 20 - len(op.tokens)


def test_an_idle_recorder_keeps_nothing(server: Server) -> None:
    server.engine.generate([request("a")])
    assert server.recorder.finish().steps == ()


def test_one_operation_is_kept_of_one_step(server: Server) -> None:
    clean = server.trace(request("a"))
    server.engine.flush_cache()
    server.recorder.capture(Wish(1, "layers.0.self_attn.qkv_a_proj"))
    server.engine.generate([request("a")])
    server.recorder.finish()
    kept = server.recorder.captured
    assert kept is not None and kept.step_tokens == 1 and len(kept.weights) == 2
    traced = clean.steps[1].by_name["layers.0.self_attn.qkv_a_proj"]
    assert np.array_equal(row_digests(kept.output)[0], traced.output)
    server.recorder.capture(Wish(99, "layers.0.self_attn.qkv_a_proj"))
    server.engine.generate([request("a")])
    server.recorder.finish()
    assert server.recorder.captured is None
