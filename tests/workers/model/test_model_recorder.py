"""What a recorder is told."""

from __future__ import annotations

import torch

from tests.workers.model.packing import Server, build, prompt
from workers.model.recorder import KINDS, NullRecorder, Tensors
from workers.model.step import Step


class Noting(NullRecorder):
    """A recorder that keeps names and checks shapes."""

    active = True

    def __init__(self) -> None:
        self.ops: list[tuple[str, str, str]] = []
        self.steps: list[Step] = []

    def begin(self, step: Step) -> None:
        self.steps.append(step)

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: Tensors,
        output: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        **_: object,
    ) -> None:
        count = self.steps[-1].tokens.shape[0]
        for tensor in (*inputs, output):
            rows = tensor.shape[0]
            assert rows % count == 0 if tokens is None else rows == len(tokens)
        assert inputs and (tokens is None or int(tokens.max()) < count)
        self.ops.append((name, kind, implementation))


def test_a_recorder_sees_every_operation_in_order() -> None:
    recorder = Noting()
    server = Server(build(recorder=recorder))
    server.run({"a": prompt(20)})
    first, recorder.ops = recorder.ops, []
    server.run({"a": [1], "b": prompt(19)})
    names = [name for name, *_ in first]
    assert len(set(names)) == len(names)
    assert [op for op in first if ".experts." not in op[0]] == [op for op in recorder.ops if ".experts." not in op[0]]
    assert names[:6] == [
        "embed_tokens",
        "embed_tokens.all_reduce",
        "layers.0.input_layernorm",
        "layers.0.self_attn.qkv_a_proj.quantise",
        "layers.0.self_attn.qkv_a_proj.quantise.scales",
        "layers.0.self_attn.qkv_a_proj",
    ]
    assert names[-3:] == ["norm", "lm_head", "lm_head.all_gather"]
    assert {kind for _, kind, _ in first} == set(KINDS) - {"sampling"}  # which is the engine's
    assert {ran for _, kind, ran in first if kind == "fp8_gemm"} == {"farm:invariant"}
    assert len(recorder.steps) == 2
