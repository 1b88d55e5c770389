"""What is digested, when, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.workers.trace.tracing import PAGE, Server, request
from workers.digest import digest, row_digests
from workers.model.recorder import KINDS
from workers.model.step import Step
from workers.trace.digests import HostDigester, flat_bytes, in_rows, weight_digest
from workers.trace.recorder import TraceRecorder, Wish


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


def a_step(tokens: int) -> Step:
    each = torch.arange(tokens)
    return Step(each, each, each, (0, tokens), (tokens,), torch.zeros(1, 1, dtype=torch.int32), each[-1:], ("a",))


def test_digests_are_those_of_rows_in_memory() -> None:
    digester, matrix = HostDigester(), torch.randn(5, 7)
    scales = torch.randn(3, 4).t()
    for tensor in (matrix, in_rows(scales), in_rows(torch.arange(6)), matrix[:0]):
        digester.rows(tensor)
    found = [[row.tobytes() for row in digests] for digests in digester.finish()]
    assert found == [row_digests(matrix), row_digests(scales.contiguous()), row_digests(torch.arange(6)[:, None]), []]
    assert digester.finish() == []


def test_one_element_may_have_any_strides() -> None:
    one = torch.empty_strided((1, 1), (1, 20)).fill_(3.0)
    assert flat_bytes(one).view(torch.float32).tolist() == [3.0]


def test_a_weight_may_be_the_transpose_of_what_is_in_memory() -> None:
    weight = torch.randn(4, 6)
    assert weight_digest(weight.t()) == digest(weight)


def test_an_input_that_was_an_output_is_not_read_again_and_memory_used_anew_is() -> None:
    recorder = TraceRecorder(torch.device("cpu"), PAGE)
    recorder.trace()
    recorder.begin(a_step(2))
    first = torch.ones(2, 3)
    recorder.op("first", "rope", "test", (torch.zeros(2, 1),), first)
    place = first.data_ptr()
    first[0, 0] = 2.0  # nobody may do so; here it shows that the digest is that of before
    recorder.op("second", "rope", "test", (first,), torch.zeros(2, 1))
    del first
    other = torch.full((2, 3), 5.0)
    recorder.op("third", "rope", "test", (other,), torch.zeros(2, 1))
    ops = recorder.finish().steps[0].by_name
    assert np.array_equal(ops["second"].inputs[0], ops["first"].output)
    assert [row.tobytes() for row in ops["third"].inputs[0]] == row_digests(torch.full((2, 3), 5.0)), place


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
    assert row_digests(kept.output) == [row.tobytes() for row in traced.output]
    server.recorder.capture(Wish(99, "layers.0.self_attn.qkv_a_proj"))
    server.engine.generate([request("a")])
    server.recorder.finish()
    assert server.recorder.captured is None
