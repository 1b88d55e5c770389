"""Which operation is blamed, with faults of one bit put into a model that has none."""

from __future__ import annotations

import pytest
import torch

from tests.workers.trace.tracing import Fault, Server, request
from workers.model.numerics import Numerics
from workers.trace.compare import Parting, first_parting
from workers.trace.trace import Instance, Trace

MOVES = ("split", "concatenate")
ORDERED = Numerics("streamk-ordered", torch.float32, deterministic=True)
STREAMK = Numerics("streamk", torch.float32, deterministic=False)


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


def parted(first: Trace, second: Trace, label: str = "a", other: str | None = None) -> Parting | None:
    return first_parting(Instance([first], 0, label), Instance([second], 0, other or label))


def test_equal_answers_do_not_part(server: Server) -> None:
    alone = server.trace(request("a"))
    assert parted(alone, server.trace(request("b", 33, seed=1), request("a"))) is None


def test_the_faulty_operation_is_blamed_whichever_it_is(server: Server) -> None:
    """In a prompt's last row but one, so that other rows read its latents; a fault that changes no answer has none."""
    clean = server.trace(request("a"))
    names = [op.name for op in clean.steps[0].ops if op.kind not in (*MOVES, "sampling")]
    blamed = {}
    for name in names:
        if name.endswith("router.experts") or name.split(".")[0] in ("norm", "lm_head"):
            continue  # an index with a bit flipped is none; the head sees the last row alone
        fault = Fault(name, "a", 18)
        found = parted(clean, server.trace(request("a"), fault=fault))
        blamed[name] = found and (found.ops[0].name, found.position, found.inputs_equal)
    seen = {name: found for name, found in blamed.items() if found is not None}
    assert seen == {name: (name, 18, True) for name in seen}
    assert {name.partition("self_attn.")[2] for name in seen if name.startswith("layers.0.")} >= {
        "qkv_a_proj.quantise",
        "qkv_a_proj",
        "kv_a_layernorm",
        "k_rope",
    }
    # In the last layer only what goes into the latents is read by later rows.
    last = max(name for name in names if name.startswith("layers."))[: len("layers.0.")]
    assert any(name.startswith(last) for name in seen)
    assert all("self_attn" in name or "input_layernorm" in name for name in seen if name.startswith(last))


@pytest.mark.parametrize("name", ["norm", "lm_head", "lm_head.all_gather"])
def test_the_head_is_blamed_for_the_row_that_is_sampled(server: Server, name: str) -> None:
    clean = server.trace(request("a"))
    found = parted(clean, server.trace(request("a"), fault=Fault(name, "a", 19)))
    assert found is not None and (found.ops[0].name, found.position, found.sampled_at) == (name, 19, 19)


def test_what_varies_in_another_sequence_is_not_to_blame(server: Server) -> None:
    first = server.trace(request("a"), request("b", 30, seed=1))
    fault = Fault("layers.0.self_attn.o_proj", "b", 12)
    second = server.trace(request("b", 30, seed=1), request("a"), fault=fault)
    assert parted(first, second) is None
    blamed = parted(first, second, "b")
    assert blamed is not None and (blamed.ops[0].name, blamed.position) == (fault.op, 12)


def test_what_varies_and_is_not_used_is_not_to_blame(server: Server) -> None:
    first = server.trace(request("a"), dangling=True)
    second = server.trace(request("a"), dangling=True)
    assert (
        first.steps[0].by_name["norm.dangling"].output.tolist()
        != second.steps[0].by_name["norm.dangling"].output.tolist()
    )
    assert parted(first, second) is None
    fault = Fault("layers.1.self_attn.q_b_proj", "a", 19)
    blamed = parted(first, server.trace(request("a"), dangling=True, fault=fault))
    assert blamed is not None and blamed.ops[0].name == fault.op


def test_a_shared_prefix_leads_to_the_sequence_that_computed_it(server: Server) -> None:
    both = [request("a", 40), request("b", 40)]
    clean = server.trace(*both)
    assert clean.steps[1].labels[0] == "a" and len(clean.steps[0].labels) < 3
    found = parted(clean, server.trace(*both, fault=Fault("layers.0.self_attn.qkv_a_proj", "a", 3)), "b")
    assert found is not None and (found.labels, found.position) == (("a", "a"), 3)


def test_a_row_that_depends_on_the_batch_is_found_under_other_labels() -> None:
    server = Server(ORDERED)
    alone = server.trace(request("a"))
    beside = server.trace(request("a 0"), *(request(f"a {i}", 240 + i, seed=i) for i in (1, 2, 3)))
    found = parted(alone, beside, "a", "a 0")
    assert found is not None
    op, other = found.ops
    assert (op.kind, op.implementation) == ("fp8_gemm", "farm:streamk-ordered")
    assert op.gemm_shape is not None and other.gemm_shape is not None
    assert op.gemm_shape[0] == 20 and other.gemm_shape[0] > 20 and op.gemm_shape[1:] == other.gemm_shape[1:]


def test_an_operation_whose_order_varies_is_blamed() -> None:
    server = Server(STREAMK)
    first = server.trace(request("a", 60))
    for _ in range(400):
        found = parted(first, server.trace(request("a", 60)))
        if found is not None:
            break
    assert found is not None and found.inputs_equal and found.weights_equal
    assert found.ops[0].implementation == "farm:streamk"
    _, n, k = found.ops[0].gemm_shape or (0, 0, 0)
    assert k > 3 * n  # all that streamk cuts


def test_a_label_that_is_not_there(server: Server) -> None:
    trace = server.trace(request("a"))
    with pytest.raises(ValueError, match="no request 'z' in call 0"):
        parted(trace, trace, "z")
