"""Runs requests through a model, as an inference server does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from specs.errors import UsageError
from workers.engine.decode_graphs import DecodeGraphs
from workers.engine.overlap import Usage, run_overlapped
from workers.engine.packing import LogitRows, pack
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import PrefixCache
from workers.engine.request import Completion, Limits, Request, check_requests
from workers.engine.sampling import Asked, put_sampled, sample
from workers.engine.scheduler import Piece, Scheduler
from workers.engine.sequence import Sequence
from workers.model.cache import LatentCache
from workers.model.config import ModelConfig
from workers.model.numerics import Numerics
from workers.model.recorder import NullRecorder, Recorder
from workers.model.step import Step


class Model(Protocol):
    """What the engine asks of a model; ``workers.model.model.DeepseekV3`` is one."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def numerics(self) -> Numerics: ...

    @property
    def device(self) -> torch.device: ...

    def forward(self, step: Step, cache: LatentCache) -> torch.Tensor:
        """(R, vocabulary) float32, the same on every rank."""


@dataclass(frozen=True)
class EngineOptions:
    """Sizes of the engine. All are at least 1."""

    pages: int
    """Of the latent cache."""
    page_size: int = 64
    """Tokens in a page."""
    chunk: int = 512
    """Most tokens of prompts in one step."""
    max_running: int = 64
    """Most sequences in one step."""
    prefix_cache: bool = True
    stop_tokens: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("pages", "page_size", "chunk", "max_running"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Engine:
    """One rank's engine. All ranks of a group make the same calls in the same order.

    Where the model is deterministic, a completion's bits depend on its request alone: not on what runs beside it,
    on the size of a chunk, on what the prefix cache has, or on preemption.
    """

    def __init__(self, model: Model, options: EngineOptions, recorder: Recorder | None = None) -> None:
        config = model.config
        recorder = recorder or NullRecorder()
        self._options, self._device = options, model.device
        cache = LatentCache(
            config,
            pages=options.pages,
            page_size=options.page_size,
            dtype=model.numerics.dtype,
            device=model.device,
        )
        self._sampled = torch.zeros((options.chunk + options.max_running, 2), dtype=torch.float64, device=model.device)
        """Tokens and logprobs of the last pass."""
        self._run_pass = partial(_run_pass, model, cache, recorder, self._sampled)
        self._graphs: DecodeGraphs | None = None
        if model.device.type == "cuda":
            self._graphs = DecodeGraphs(self._run_pass, recorder, self._sampled)
        self._pool = PagePool(options.pages)
        self._prefix_cache = PrefixCache(self._pool, options.page_size) if options.prefix_cache else None
        self._limits = Limits(config.vocab_size, config.max_position_embeddings, options.pages, options.page_size)
        self.usage = Usage(0, 0)
        """Of the last call."""

    def generate(self, requests: list[Request]) -> list[Completion]:
        """One completion for each request, in their order.

        Raises UsageError for a request that does not fit the model or the cache, and for two with one label.
        """
        check_requests(requests, self._limits)
        sequences = [Sequence(request, place, self._options.page_size) for place, request in enumerate(requests)]
        scheduler = Scheduler(
            sequences,
            self._pool,
            self._prefix_cache,
            page_size=self._options.page_size,
            chunk=self._options.chunk,
            max_running=self._options.max_running,
        )
        try:
            with torch.inference_mode():
                self.usage = run_overlapped(scheduler, self._begin, self._options.stop_tokens)
        except BaseException:
            scheduler.abandon()
            raise
        return [sequence.completion() for sequence in sequences]

    def flush_cache(self) -> None:
        """Forget all prefixes. Nothing to do where the prefix cache is off."""
        if self._prefix_cache is not None:
            self._prefix_cache.flush()

    def _begin(self, pieces: list[Piece]) -> _Begun:
        cuda = self._device.type == "cuda"
        packed = pack(pieces, self._options.page_size, pinned=cuda)
        if self._graphs is None or not self._graphs.replay(packed):
            self._run_pass(*packed.layout.cut(packed.words.to(self._device, non_blocking=True, copy=True)))
        found = torch.empty((packed.layout.rows, 2), dtype=torch.float64, pin_memory=cuda)
        found.copy_(self._sampled[: len(found)], non_blocking=True)
        return _Begun(packed.rows, found, torch.cuda.current_stream().record_event() if cuda else None)


@dataclass(frozen=True, eq=False)
class _Begun:
    """``workers.engine.overlap.Pass`` on a device."""

    rows: list[LogitRows]
    sampled: torch.Tensor
    """(R, 2) float64 on the host, once ``arrived``."""
    arrived: torch.cuda.Event | None

    def found(self) -> list[list[float]]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.sampled.tolist()


def _run_pass(
    model: Model, cache: LatentCache, recorder: Recorder, sampled: torch.Tensor, step: Step, asked: Asked
) -> None:
    """Logits, and what is sampled from them; ``sampled`` has that of the pass before, and then of this one."""
    put_sampled(step.tokens, sampled)
    logits = model.forward(step, cache)
    rows = step.logit_rows
    if not len(rows):
        return
    deterministic = model.numerics.deterministic
    sample(logits, asked, sampled[: len(rows)], deterministic=deterministic)
    if recorder.active:
        implementation = "farm:logprobs" if deterministic else "torch.log_softmax"
        recorder.op("sample", "sampling", implementation, (logits,), sampled[: len(rows)], tokens=rows)
