"""What a recorder is told."""

from __future__ import annotations

import torch

from tests.workers.model.packing import Server, build, prompt
from workers.model.recorder import KINDS
from workers.model.step import Step


class Noting:
    """A recorder that keeps names and checks shapes."""

    def __init__(self) -> None:
        self.ops: list[tuple[str, str, str, bool]] = []
        self.steps: list[Step] = []

    def begin(self, step: Step) -> None:
        self.steps.append(step)

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
        *,
        by_row: bool,
    ) -> None:
        assert inputs and (not by_row or output.shape[0] == self.steps[-1].tokens.shape[0])
        self.ops.append((name, kind, implementation, by_row))


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
    assert {kind for _, kind, *_ in first} == set(KINDS)
    assert {ran for _, kind, ran, _ in first if kind == "fp8_gemm"} == {"farm:invariant"}
    assert len(recorder.steps) == 2
