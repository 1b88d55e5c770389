"""The whole model on a GPU: against the CPU, over batches and chunks, in a graph."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.gpu.kept import Kept
from tests.workers.model.packing import NANO, Server, build, prompt
from workers.gemm.targets import find_target
from workers.model.cache import LatentCache
from workers.model.config import PRESETS, ModelConfig
from workers.model.numerics import Numerics
from workers.model.recorder import NullRecorder, Tensors
from workers.model.sharding import Ranks

CUDA = torch.device("cuda")
HERE = Ranks(0, 1, CUDA)
# R1's widths, with as few experts as still make groups.
WIDE = replace(PRESETS["deepseek-v3-layer"], num_hidden_layers=2, n_routed_experts=16, vocab_size=2048)
# Its layer of experts alone: peers that compile for every weight have five to compile.
FEW = replace(WIDE, num_hidden_layers=1, first_k_dense_replace=0)
LONG = prompt(700, seed=1)


def serve(numerics: Numerics, config: ModelConfig = NANO) -> Server:
    return Server(build(numerics, config, ranks=HERE), numerics.dtype, pages=2048, device=CUDA)


@pytest.mark.parametrize("deterministic", [True, False])
def test_float32_logits_are_those_of_the_cpu(deterministic: bool) -> None:
    numerics = Numerics(None, torch.float32, deterministic)
    wanted = Server(build(numerics), torch.float32).run({"a": LONG[:300]}, all_rows=True)
    got = serve(numerics).run({"a": LONG[:300]}, all_rows=True)
    # Without determinism cuBLAS may use TF32 where it is allowed to; by default it is not.
    assert torch.allclose(got.cpu(), wanted, rtol=1e-3, atol=1e-3)


class Led(NullRecorder):
    """Notes how far every operation is from what was kept, and puts that in its place: the next starts from equals.

    Where one kernel does several operations, it began from equals.
    """

    active = True

    def __init__(self, kept: dict[str, torch.Tensor]) -> None:
        self._kept = kept
        self.errors: dict[str, tuple[str, float]] = {}

    def op(self, name: str, kind: str, implementation: str, inputs: Tensors, output: torch.Tensor, **_: object) -> None:
        wanted = self._kept.get(name)
        if wanted is None:
            return
        error = (output.cpu().double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30)
        self.errors[name] = (kind, float(error))
        output.copy_(wanted)


# The tensor cores' accumulator of FP8 keeps 13 bits or so. What experts give has their own quantisation in it. Codes
# are made in one kernel with what is before them, in which a bit may make one tip over.
LARGEST_ERRORS = {"fp8_gemm": 1e-3, "quantise": 2e-3} | dict.fromkeys(("concatenate", "weighted_sum", "residual"), 2e-2)


@pytest.mark.parametrize("gemm", ["invariant", "streamk"])
def test_every_operation_is_that_of_the_cpu(gemm: str) -> None:
    numerics = Numerics(gemm, torch.float32, deterministic=True)
    kept = Kept()
    Server(build(numerics, recorder=kept), torch.float32).run({"a": LONG[:100]}, all_rows=True)
    led = Led(kept.outputs)
    Server(build(numerics, ranks=HERE, recorder=led), torch.float32, device=CUDA).run({"a": LONG[:100]}, all_rows=True)
    # Experts are one operation there and many here.
    assert led.errors.keys() == {name for name in kept.outputs if ".mlp.experts." not in name}
    wrong = {name: error for name, (kind, error) in led.errors.items() if not error <= LARGEST_ERRORS.get(kind, 1e-5)}
    assert not wrong


@pytest.mark.parametrize("gemm", ["invariant", "streamk"])
def test_fp8_logits_are_near_those_of_the_cpu(gemm: str) -> None:
    numerics = Numerics(gemm, torch.float32, deterministic=True)
    wanted = Server(build(numerics), torch.float32).run({"a": LONG[:100]}, all_rows=True)
    got = serve(numerics).run({"a": LONG[:100]}, all_rows=True).cpu()
    rows = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    # Each quantisation turns a small difference into some codes that tip over: noise of 1e-4 in every product, added on
    # the CPU, makes the same 5 % at the median and 7 % at most.
    assert rows.median() < 0.1 and rows.max() < 0.2


@pytest.mark.parametrize("config", [NANO, WIDE], ids=["nano", "wide"])
def test_prefill_in_chunks_and_token_by_token(config: ModelConfig) -> None:
    numerics = Numerics("invariant", torch.bfloat16, deterministic=True)
    server = serve(numerics, config)
    whole = server.run({"whole": LONG}, all_rows=True)
    for name, bounds in {"chunks": [0, 1, 65, 300, 513, 700], "tokens": [*range(20)]}.items():
        parts = [server.run({name: LONG[start:stop]}, all_rows=True) for start, stop in pairwise(bounds)]
        assert torch.equal(torch.cat(parts), whole[: bounds[-1]])


@pytest.mark.parametrize("config", [NANO, WIDE], ids=["nano", "wide"])
def test_a_decoded_row_does_not_depend_on_its_batch(config: ModelConfig) -> None:
    server = serve(Numerics("invariant", torch.bfloat16, deterministic=True), config)
    server.run({"alone": LONG[:30]})
    wanted = server.run({"alone": [9]})[0]
    for batch in (1, 2, 3, 16, 33, 64):
        for place in {0, batch // 2, batch - 1}:
            labels = [f"{batch}.{place}.{i}" for i in range(batch)]
            server.run({label: LONG[:30] if i == place else prompt(1 + i, i) for i, label in enumerate(labels)})
            got = server.run({label: [9] for label in labels})
            assert torch.equal(got[place], wanted), (batch, place)


@pytest.fixture(scope="module")
def ours() -> torch.Tensor:
    return serve(Numerics("invariant", torch.bfloat16, deterministic=True), FEW).run({"a": LONG[:40]})


@pytest.mark.parametrize("gemm", ["sgl-kernel", "deep-gemm", "torch-scaled-mm", "triton"])
def test_peers_run_the_same_model(gemm: str, ours: torch.Tensor) -> None:
    refusal = find_target(gemm).unsupported(1, 2176, 7168, torch.bfloat16, CUDA)
    if refusal is not None:
        pytest.skip(refusal)
    theirs = serve(Numerics(gemm, torch.bfloat16, deterministic=False), FEW).run({"a": LONG[:40]})
    assert (ours - theirs).norm() < 0.2 * ours.norm()


@pytest.mark.parametrize("deterministic", [True, False])
@torch.inference_mode()  # as the logits are made in it, they can be written to in it alone
def test_a_decode_step_can_be_captured(deterministic: bool) -> None:
    server = serve(Numerics("invariant", torch.bfloat16, deterministic))
    work = {label: LONG[:20] for label in "abc"}
    server.run(work)
    step = server.step({label: [9] for label in work})
    before = [layer.clone() for layer in server.cache.layers]
    wanted = server.model.forward(step, server.cache)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = server.model.forward(step, server.cache)
    _restore(server.cache, before)
    captured.zero_()
    graph.replay()
    if deterministic:
        assert torch.equal(captured, wanted)
    else:  # cuBLAS may choose otherwise while it is captured
        assert (captured - wanted).norm() < 0.1 * wanted.norm()


def _restore(cache: LatentCache, layers: list[torch.Tensor]) -> None:
    for layer, before in zip(cache.layers, layers, strict=True):
        layer.copy_(before)
