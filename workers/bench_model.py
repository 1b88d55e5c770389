"""Times a model on one device: decoding beside the time to read its weights, and prefill by operation.

Logits are part of a pass, whose contexts are made of noise: only their length counts. An engine's step, with scheduling
and sampling, is timed by itself, over contexts that it computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Request
from workers.graphs import capture
from workers.model.cache import LatentCache
from workers.model.collectives import make_collective
from workers.model.config import ModelConfig
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.recorder import Tensors
from workers.model.sharding import Ranks
from workers.model.step import Step
from workers.model.tensors import tensor_specs
from workers.model.weights import RandomWeights
from workers.timing import seconds_between, wall_seconds
from workers.trace.recorder import TraceRecorder

PAGE_SIZE = 64
TURNS = 3
ENGINE_STEPS = 64
PASSES = 5
"""In a turn, one after the other: more than an L2 full of weights lies between two uses of one."""
GEMMS = ("fp8_gemm", "matmul", "head_matmul")
"""Kinds of operations that are products with weights."""
_HEAD_START_CYCLES = 100_000_000  # about 50 ms, in which the host launches a whole pass


@dataclass(frozen=True)
class DecodeTime:
    """One new token for each of ``batch`` sequences: ``seconds`` of a pass, from a CUDA graph where ``captured``."""

    batch: int
    seconds: float
    captured: bool
    weight_bytes: int
    """That the pass has to read: all but the embedding, and but those experts that no token went to."""
    engine: EngineTime | None
    """None on the CPU, where prompts take long."""


@dataclass(frozen=True)
class EngineTime:
    """Of a step of the engine, the mean of ``ENGINE_STEPS``."""

    seconds: float
    traced_seconds: float
    """With every operation digested."""
    weight_bytes: int


@dataclass(frozen=True)
class PrefillTime:
    """One prompt of ``tokens`` in one pass: ``seconds``, and of them those of each kind of operation.

    An operation's time begins with the end of the one recorded before, and so has in it what lies between them.
    """

    tokens: int
    seconds: float
    seconds_by_kind: dict[str, float]

    @property
    def gemm_share(self) -> float:
        return sum(self.seconds_by_kind.get(kind, 0.0) for kind in GEMMS) / self.seconds


class ModelBench:
    """A random model with its cache, of which up to ``batch`` sequences have ``context`` tokens."""

    def __init__(
        self, config: ModelConfig, numerics: Numerics, device: torch.device, *, batch: int, context: int
    ) -> None:
        self._config, self._device, self._context = config, device, context
        self._listener = _Listener(device)
        ranks, source = Ranks(0, 1, device), RandomWeights(config, 0, device)
        self._model = DeepseekV3(config, source, ranks, make_collective("ordered", ranks), numerics, self._listener)
        self._pages = -(-(context + 1) // PAGE_SIZE)
        self._cache = LatentCache(
            config, pages=batch * self._pages, page_size=PAGE_SIZE, dtype=numerics.dtype, device=device
        )
        for layer in self._cache.layers:
            layer.normal_()
        whole = -(-(context + ENGINE_STEPS + 1) // PAGE_SIZE)
        options = EngineOptions(pages=batch * whole, page_size=PAGE_SIZE, chunk=8 * context, max_running=batch)
        self._engine = Engine(self._model, options, self._listener) if device.type == "cuda" else None

    def decode(self, batch: int) -> DecodeTime:
        """The median of ``TURNS``."""
        step = self._step(batch, self._context, 1)
        routed = _Routed(batch)
        with self._listener.telling(routed):
            self._forward(step)
        weight_bytes = _bytes_read(self._config, routed.experts)
        if self._device.type != "cuda":
            seconds = _median(lambda: wall_seconds(lambda: self._forward(step)))
            return DecodeTime(batch, seconds, False, weight_bytes, None)
        graph = capture(lambda: self._forward(step))
        again: Callable[[], object] = graph.replay if graph is not None else lambda: self._forward(step)
        again()
        seconds = _median(lambda: seconds_between(lambda: [again() for _ in range(PASSES)]) / PASSES)
        return DecodeTime(batch, seconds, graph is not None, weight_bytes, self._engine_time(batch))

    def prefill(self, tokens: int) -> PrefillTime:
        """The median of ``TURNS``, by their sums. Takes at most ``context`` tokens."""
        step = self._step(1, 0, tokens)
        self._forward(step)
        times = []
        for _ in range(TURNS):
            clock = _Clock(self._device)
            with self._listener.telling(clock):
                self._forward(step)
            times.append(clock.seconds_by_kind())
        found = sorted(times, key=lambda seconds: sum(seconds.values()))[TURNS // 2]
        return PrefillTime(tokens, sum(found.values()), found)

    def _engine_time(self, batch: int) -> EngineTime | None:
        """Medians of ``TURNS``. What is not in the prefix cache of the prompts is taken off."""
        engine, listener = self._engine, self._listener
        if engine is None:
            return None
        generator = torch.Generator().manual_seed(batch)
        prompts = torch.randint(0, self._config.vocab_size, (batch, self._context), generator=generator).tolist()

        def seconds(new_tokens: int, traced: bool = False) -> float:
            requests = [Request(tuple(prompt), str(i), new_tokens) for i, prompt in enumerate(prompts)]
            if traced:
                listener.trace()
                listener.begin_call()
            found = wall_seconds(lambda: engine.generate(requests))
            if traced:
                listener.finish()
            return found

        def step(traced: bool) -> float:
            seconds(1 + ENGINE_STEPS, traced)
            found = _median(lambda: seconds(1 + ENGINE_STEPS, traced) - seconds(1, traced))
            return found / ENGINE_STEPS

        found = EngineTime(step(False), step(True), self._engine_bytes(lambda: seconds(1 + ENGINE_STEPS), batch))
        engine.flush_cache()
        return found

    def _engine_bytes(self, generate: Callable[[], object], batch: int) -> int:
        """That one of ``ENGINE_STEPS`` reads in the mean."""
        routed = _Routed(batch)
        with self._listener.telling(routed):
            generate()
        return _bytes_read(self._config, round(routed.experts / ENGINE_STEPS))

    def _forward(self, step: Step) -> torch.Tensor:
        return self._model.forward(step, self._cache)

    def _step(self, batch: int, start: int, count: int) -> Step:
        """Tokens ``start`` and on of each sequence, the logits of each one's last wanted."""
        generator = torch.Generator().manual_seed(batch)
        tokens = torch.randint(0, self._config.vocab_size, (batch * count,), generator=generator)
        tables = torch.arange(batch * self._pages).view(batch, -1)
        positions = torch.arange(start, start + count).repeat(batch)
        pages = tables.repeat_interleave(count, dim=0).gather(1, (positions // PAGE_SIZE)[:, None])[:, 0]
        return Step(
            tokens=tokens.to(self._device),
            positions=positions.to(self._device),
            slots=(pages * PAGE_SIZE + positions % PAGE_SIZE).to(self._device),
            starts=tuple(range(0, batch * count + 1, count)),
            lengths=(start + count,) * batch,
            page_tables=tables.int().to(self._device),
            logit_rows=torch.arange(count - 1, batch * count, count).to(self._device),
            labels=tuple(map(str, range(batch))),
        )


class _Listener(TraceRecorder):
    """Passes name, kind and output on while somebody listens."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, PAGE_SIZE)
        self._told: Callable[[str, str, torch.Tensor], None] | None = None

    @contextmanager
    def telling(self, told: Callable[[str, str, torch.Tensor], None]) -> Iterator[None]:
        self._told = told
        try:
            yield
        finally:
            self._told = None

    @property
    def graphs(self) -> bool:
        return self._told is None

    def op(self, name: str, kind: str, implementation: str, inputs: Tensors, output: torch.Tensor, **more: Any) -> None:
        if self._told is not None:
            self._told(name, kind, output)
        else:
            super().op(name, kind, implementation, inputs, output, **more)


class _Routed:
    """Counts the experts that tokens went to, over all layers and all passes of so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.experts, self._tokens = 0, tokens

    def __call__(self, name: str, kind: str, output: torch.Tensor) -> None:
        if name.endswith(".router.experts") and len(output) == self._tokens:
            self.experts += output.unique().numel()


class _Clock:
    """Adds up the time between operations by the kind of the later one. The first begins before it is told of."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def __call__(self, name: str, kind: str, output: torch.Tensor) -> None:
        if self._cuda and not self._marks:
            # From here on nothing waits for the device: let the host get ahead, so that its time is not measured.
            sleep: Any = torch.cuda._sleep
            sleep(_HEAD_START_CYCLES)
        self._marks.append((kind, self._now()))

    def seconds_by_kind(self) -> dict[str, float]:
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (_, before), (kind, now) in zip(self._marks, self._marks[1:], strict=False):
            seconds[kind] = seconds.get(kind, 0.0) + self._between(before, now)
        return seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event
        now = event(enable_timing=True)
        now.record()
        return now

    def _between(self, before: Any, now: Any) -> float:
        return float(before.elapsed_time(now) / 1e3 if self._cuda else now - before)


def _bytes_read(config: ModelConfig, experts: int) -> int:
    """Of the checkpoint's weights, by a pass whose tokens go to so many different experts over all layers."""
    always = expert = 0
    for spec in tensor_specs(config):
        size = torch.Size(spec.shape).numel() * spec.dtype.itemsize
        if ".experts." not in spec.name:
            always += size * (spec.name != "model.embed_tokens.weight")
        elif f".{config.first_k_dense_replace}.mlp.experts.0." in spec.name:
            expert += size
    return always + experts * expert


def _median(seconds: Callable[[], float]) -> float:
    return statistics.median(seconds() for _ in range(TURNS))
