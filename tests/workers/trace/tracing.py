"""An engine whose traces tests take, and faults to put into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.workers.model.packing import ALONE, NANO, prompt
from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Request
from workers.model.collectives import Collective, make_collective
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.recorder import Tensors
from workers.model.sharding import Ranks
from workers.model.step import Step
from workers.model.weights import RandomWeights, WeightSource
from workers.trace.recorder import TraceRecorder
from workers.trace.trace import Trace

PAGE = 16
FIXED = Numerics("invariant", torch.float32, deterministic=True)


@dataclass(frozen=True)
class Fault:
    """One bit of the output of an operation, in a token's row."""

    op: str
    label: str
    position: int


class FaultyRecorder(TraceRecorder):
    """Flips a bit before it looks."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), PAGE)
        self.fault: Fault | None = None
        self.dangling = False

    def begin(self, step: Step) -> None:
        self._row = -1
        if self.fault is not None and self.fault.label in step.labels:
            start = step.starts[step.labels.index(self.fault.label)]
            rows = range(start, step.starts[step.labels.index(self.fault.label) + 1])
            self._row = next((row for row in rows if int(step.positions[row]) == self.fault.position), -1)
        super().begin(step)

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: Tensors,
        output: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        **more: Any,
    ) -> None:
        if self.fault is not None and self.fault.op == name and self._row >= 0:
            places = range(output.shape[0]) if tokens is None else tokens.tolist()
            if self._row in places:
                flip(output, list(places).index(self._row))
        super().op(name, kind, implementation, inputs, output, tokens=tokens, **more)
        if self.dangling and kind == "rms_norm":
            noise = torch.rand(output.shape[0], 4)
            super().op(f"{name}.dangling", "rms_norm", "nobody reads it", (output,), noise, tokens=tokens)


def flip(output: torch.Tensor, row: int) -> None:
    """The top bit of the mantissa of a row's greatest element: enough to matter, and no infinity."""
    flat = output[row].reshape(-1)
    place = int(flat.float().abs().argmax())
    bit = {1: 4, 4: 1 << 22}[output.element_size()]
    view = {1: torch.uint8, 4: torch.int32}[output.element_size()]
    target = output[row].view(view)
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), target.shape))
    target[index] ^= bit


class Server:
    """A nano model and its engine, on one rank."""

    def __init__(
        self,
        numerics: Numerics = FIXED,
        ranks: Ranks = ALONE,
        collective: Collective | None = None,
        source: WeightSource | None = None,
    ) -> None:
        self.recorder = FaultyRecorder()
        together = collective or make_collective("ordered", ranks)
        weights = source or RandomWeights(NANO, 7, ranks.device)
        model = DeepseekV3(NANO, weights, ranks, together, numerics, self.recorder)
        options = EngineOptions(pages=256, page_size=PAGE, chunk=1024)
        self.engine = Engine(model, options, self.recorder)

    def trace(self, *requests: Request, fault: Fault | None = None, dangling: bool = False) -> Trace:
        """Of one call, from an empty cache."""
        self.engine.flush_cache()
        self.recorder.fault, self.recorder.dangling = fault, dangling
        self.recorder.trace()
        self.recorder.begin_call()
        self.engine.generate(list(requests))
        return self.recorder.finish()


def request(label: str, tokens: int = 20, *, seed: int = 0, new: int = 3) -> Request:
    return Request(tuple(prompt(tokens, seed)), label, new)
