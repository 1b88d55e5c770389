"""DeepSeek-V3 (arXiv 2412.19437) for inference: embedding, layers of attention and MLP or experts, head."""

from __future__ import annotations

from typing import Any

import torch

from specs.errors import UsageError
from workers.model.attention import LatentAttention
from workers.model.cache import LatentCache
from workers.model.collectives import Collective
from workers.model.config import ModelConfig
from workers.model.context import Context
from workers.model.linear import read_plain
from workers.model.mlp import MLP
from workers.model.moe import MixtureOfExperts
from workers.model.norm import Norm, Normed
from workers.model.numerics import Numerics
from workers.model.ops import make_ops
from workers.model.recorder import NullRecorder, Recorder
from workers.model.rope import RotaryEmbedding, Tables
from workers.model.sharding import Ranks, pieces_of
from workers.model.step import Step
from workers.model.weights import WeightSource


class DeepseekV3:
    """One rank's part of the model, its weights on ``ranks.device``.

    Raises UsageError where the sizes can't be cut over the ranks, or where ``numerics`` does not fit the checkpoint.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: WeightSource,
        ranks: Ranks,
        collective: Collective,
        numerics: Numerics,
        recorder: Recorder | None = None,
    ) -> None:
        if numerics.gemm is not None and not config.fp8:
            raise UsageError(f"gemm is {numerics.gemm!r}, but the model's weights are not FP8; use gemm: null")
        pieces = pieces_of(ranks, numerics.tp_granularity)
        config.check_shards(pieces.total)
        ops = make_ops(numerics, ranks.device)
        context = Context(config, numerics, source, ranks, pieces, ops, collective, recorder or NullRecorder())
        self.config, self.numerics, self.device, self._context = config, numerics, ranks.device, context
        self._rotary = RotaryEmbedding(config, ranks.device)
        self._embedding = Embedding(context)
        self._layers = [Layer(context, layer) for layer in range(config.num_hidden_layers)]
        self._head = Head(context)

    @torch.inference_mode()
    def forward(self, step: Step, cache: LatentCache) -> torch.Tensor:
        """Float32 logits (R, vocabulary) of ``step.logit_rows``, on every rank; latents go to ``cache``.

        With deterministic numerics a row's bits depend on its sequence's tokens up to it alone: not on the other
        sequences, and not on how its own was cut into steps. With a granularity they don't depend on the number of
        ranks either, with ``invariant`` (or another GEMM whose rows and runs don't differ) and with the collective
        ``ordered`` or ``tree``. It does not hold for ``streamk``, which adds in order of arrival; for ``nccl``, which
        adds as the number of ranks and the message's size suggest.
        """
        context = self._context
        context.recorder.begin(step)
        plan = context.ops.plan_attention(step, cache.page_size)
        tables = self._rotary.tables(step.positions)
        x, added = self._embedding(step.tokens), None
        for layer, latents in zip(self._layers, cache.layers, strict=True):
            x, added = layer(x, added, tables, latents, step.slots, plan)
        assert added is not None
        return self._head(x, added, step.logit_rows)


class Embedding:
    """This rank's rows of the table; tokens of others' rows are zero, so that the sum over ranks is exact."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._own = context.pieces.own(context.config.vocab_size)
        # A sum with zero turns -0 into +0: done here, it is so with one rank too.
        self._table = read_plain(context, "model.embed_tokens.weight", self._own) + 0.0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) to (T, hidden)."""
        context = self._context
        found = context.ops.embed(tokens, self._table, self._own.start)
        context.ran("embed_tokens", "embedding", (tokens,), found, weights=(self._table,))
        return context.all_reduce("embed_tokens.all_reduce", found[None])


class Layer:
    def __init__(self, context: Context, layer: int) -> None:
        self._context, self._name = context, f"layers.{layer}"
        self._attention = LatentAttention(context, layer)
        self._moe: MixtureOfExperts | None = None
        if context.config.is_moe(layer):
            self._moe = MixtureOfExperts(context, layer)
        else:
            self._mlp = MLP(context, f"{self._name}.mlp", context.config.intermediate_size)
        linear, residual = f"{self._name}.self_attn.qkv_a_proj", residual_name(layer - 1)
        self._input_norm = Norm(context, f"{self._name}.input_layernorm", linear, residual=residual)
        linear, residual = f"{self._name}.mlp", f"{self._name}.self_attn.residual"
        name, routed = f"{self._name}.post_attention_layernorm", self._moe is not None
        self._attention_norm = Norm(context, name, linear, residual=residual, plain=routed)

    def __call__(
        self,
        x: torch.Tensor,
        added: torch.Tensor | None,
        tables: Tables,
        latents: torch.Tensor,
        slots: torch.Tensor,
        plan: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, hidden), and what is still to be added to it, to the same: the next norm does that."""
        normed = self._input_norm(x, added)
        attended = self._attention(normed.rows, tables, latents, slots, plan)
        normed = self._attention_norm(normed.total, attended)
        return normed.total, self._feed_forward(normed)

    def _feed_forward(self, normed: Normed) -> torch.Tensor:
        if self._moe is not None:
            assert normed.values is not None
            return self._moe(normed.values, normed.rows)
        return self._context.all_reduce(f"{self._name}.mlp.all_reduce", self._mlp(normed.rows))


def residual_name(layer: int) -> str:
    """Of the sum behind a layer's MLP or experts."""
    return f"layers.{layer}.mlp.residual"


class Head:
    """The last norm and the vocabulary, cut over ranks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        pieces, size = context.pieces, context.config.vocab_size
        self._norm = read_plain(context, "model.norm.weight")
        parts = [read_plain(context, "lm_head.weight", pieces.part(size, piece)) for piece in pieces]
        self._weights = [context.ops.weight(part) for part in parts]

    def __call__(self, x: torch.Tensor, added: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Rows ``tokens`` (R,) of (T, hidden), and of as many to be added to it, to (R, vocabulary) float32."""
        context = self._context
        eps = context.config.rms_norm_eps
        total, normed = context.ops.add_rms_norm(x, added, tokens, self._norm, eps)
        if context.recorder.active:
            residual = residual_name(context.config.num_hidden_layers - 1)
            context.ran(residual, "residual", (x[tokens], added[tokens]), total, tokens=tokens)
        context.ran("norm", "rms_norm", (total,), normed, tokens=tokens, weights=(self._norm,), numbers={"eps": eps})
        parts = [context.ops.matmul(normed, weight, torch.float32) for weight in self._weights]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        context.ran("lm_head", "matmul", (normed,), logits, tokens=tokens, weights=tuple(self._weights))
        gathered = context.collective.all_gather(logits)
        context.recorder.op("lm_head.all_gather", "all_gather", "all_gather", (logits,), gathered, tokens=tokens)
        return gathered
