"""Runs requests through a model, as an inference server does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from specs.errors import UsageError
from workers.engine.decode_graphs import DecodeGraphs, Forward
from workers.engine.packing import PackedStep, pack
from workers.engine.pages import PagePool
from workers.engine.prefix_cache import PrefixCache
from workers.engine.request import Completion, Limits, Request, check_requests
from workers.engine.sampling import sample
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


@dataclass(frozen=True)
class Usage:
    """What the last call took."""

    steps: int
    """Forward passes."""
    tokens: int
    """That went through the model, those of preempted sequences once more each time."""


class Engine:
    """One rank's engine. All ranks of a group make the same calls in the same order.

    Where the model is deterministic, a completion's bits depend on its request alone: not on what runs beside it,
    on the size of a chunk, on what the prefix cache has, or on preemption.
    """

    def __init__(self, model: Model, options: EngineOptions, recorder: Recorder | None = None) -> None:
        config = model.config
        self._recorder = recorder or NullRecorder()
        self._model, self._options, self._device = model, options, model.device
        cache = LatentCache(
            config,
            pages=options.pages,
            page_size=options.page_size,
            dtype=model.numerics.dtype,
            device=model.device,
        )
        self._forward: Forward = lambda step: model.forward(step, cache)
        if model.device.type == "cuda":
            self._forward = DecodeGraphs(self._forward, self._recorder, options.page_size)
        self._pool = PagePool(options.pages)
        self._prefix_cache = PrefixCache(self._pool, options.page_size) if options.prefix_cache else None
        self._limits = Limits(config.vocab_size, config.max_position_embeddings, options.pages, options.page_size)
        self.usage = Usage(0, 0)

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
            self._run(scheduler)
        except BaseException:
            scheduler.abandon()
            raise
        return [sequence.completion() for sequence in sequences]

    def flush_cache(self) -> None:
        """Forget all prefixes. Nothing to do where the prefix cache is off."""
        if self._prefix_cache is not None:
            self._prefix_cache.flush()

    @torch.inference_mode()
    def _run(self, scheduler: Scheduler) -> None:
        steps = tokens = 0
        while pieces := scheduler.next_step():
            packed = pack(pieces, self._options.page_size, self._device)
            logits = self._forward(packed.step)
            for piece in pieces:
                scheduler.computed(piece)
            self._keep(pieces, packed, logits)
            scheduler.retire()
            steps += 1
            tokens += packed.step.starts[-1]
        self.usage = Usage(steps, tokens)

    def _keep(self, pieces: list[Piece], packed: PackedStep, logits: torch.Tensor) -> None:
        """Give every sequence the logprobs and the token that this step found for it."""
        if not packed.wanted:
            return
        sampled = sample(logits, packed.wanted, deterministic=self._model.numerics.deterministic)
        self._tell(packed, logits, sampled)
        found = zip(*sampled, strict=True)
        for piece, scored, draws in zip(pieces, packed.scored, packed.draws, strict=True):
            sequence = piece.sequence
            sequence.prompt_logprobs += [logprob for _, (_, logprob) in zip(range(scored), found, strict=False)]
            if draws:
                token, logprob = next(found)
                sequence.tokens.append(token)
                sequence.logprobs.append(logprob)
                sequence.stopped = token in self._options.stop_tokens

    def _tell(self, packed: PackedStep, logits: torch.Tensor, sampled: tuple[list[int], list[float]]) -> None:
        if not self._recorder.active:
            return
        pairs = torch.tensor(sampled, dtype=torch.float64, device=logits.device).t()
        implementation = "farm:logprobs" if self._model.numerics.deterministic else "torch.log_softmax"
        tokens = packed.step.logit_rows
        self._recorder.op("sample", "sampling", implementation, (logits,), pairs, tokens=tokens)
