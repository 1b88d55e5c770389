"""The operations of a forward pass that can be computed in more than one way, and which way a run takes.

All else in the model is element by element, of which IEEE arithmetic leaves one result, or moves data about. (Not all
of PyTorch's own functions are: on the CPU `silu` and `sigmoid` give other bits in the last elements of a tensor than
before, as they leave the vector unit there; `exp` does not.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workers.model.config import ModelConfig
from workers.model.numerics import Numerics
from workers.model.rope import Tables, rotate
from workers.model.router import Routing, route
from workers.model.sharding import Pieces
from workers.model.step import Step

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class AttentionShape:
    """What attention has to know beside its operands.

    ``scale`` multiplies the scores, ``value_size`` of a latent's first numbers are its value, and ``pieces`` groups of
    heads are computed one by one, where the shape of a product could matter.
    """

    scale: float
    value_size: int
    pieces: int


class Ops(Protocol):
    """One way to compute. Results have the type of ``x`` where nothing else is said."""

    source: str
    """What stands before an operation's name in a recorder's ``implementation``."""

    def embed(self, tokens: torch.Tensor, table: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of ``table`` (V, n), which has those of tokens ``first`` on, to (T, n): zeros for other tokens."""
        local = tokens - first
        elsewhere = (local < 0) | (local >= table.shape[0])
        return table[local.masked_fill(elsewhere, 0)].masked_fill(elsewhere[:, None], 0.0)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """(T, n): x / sqrt(mean(x^2) + eps) * weight, in float32."""

    def rms_norm_quantise(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, *, added: torch.Tensor | None, plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """x + ``added``, its ``rms_norm``, and what ``quantise`` gives of that.

        To the bit as one after the other. The second may be None where it is not asked for as ``plain``.
        """
        total = x if added is None else x + added
        normed = self.rms_norm(total, weight, eps)
        return total, normed, *self.quantise(normed)

    def add_rms_norm(
        self, x: torch.Tensor, added: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x + ``added`` (T, n) of ``rows`` (R,) alone, and its ``rms_norm`` (R, n)."""
        total = x[rows] + added[rows]
        return total, self.rms_norm(total, weight, eps)

    def quantise(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, k) to e4m3 codes of the same shape and float32 scales (T, k/128) with stride(0) == 1."""

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A plain weight as ``matmul`` and ``head_matmul`` take it, made once."""

    def matmul(self, x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        """(T, k) times the transpose of (n, k), summed in float32."""

    def head_matmul(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """(T, H, a) times a matrix of each head (H, a, b), to (T, H, b), summed in float32.

        To ``out`` where that is given; it may have gaps between heads and between tokens.
        """

    def silu_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        """(T, 2 n) to (T, n): silu of the first half times the second, in float32."""

    def silu_multiply_quantise(
        self, gate_up: torch.Tensor, *, pieces: int, plain: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """``silu_multiply`` of each of ``pieces`` side by side (T, 2 n), and what ``quantise`` gives of that.

        To the bit as one after the other. The first may be None where it is not asked for as ``plain``.
        """
        activated = self.silu_multiply(gate_up.view(gate_up.shape[0] * pieces, -1)).view(gate_up.shape[0], -1)
        return activated, *self.quantise(activated)

    def route(self, logits: torch.Tensor, bias: torch.Tensor, config: ModelConfig, pieces: Pieces) -> Routing:
        """See ``workers.model.router.route``."""
        return route(logits, bias, config, pieces)

    def weighted_sum(self, outputs: torch.Tensor, weights: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """``onto`` (T, n) plus the rounded sum of (T, k, n) times weights (T, k) float32, in order of k and in float32.

        An output whose weight is 0 is not looked at: it may be anything.
        """

    def latent(
        self,
        c_kv: torch.Tensor,
        key: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        tables: Tables,
        latents: torch.Tensor,
        slots: torch.Tensor,
    ) -> Parts:
        """``rms_norm`` of c_kv (T, kv_lora_rank) beside the rotated key (T, rope); put at ``slots`` too.

        The two and both, (T, latent), of which they are views.
        """
        joined = torch.cat((self.rms_norm(c_kv, weight, eps), rotate(key[:, None], tables)[:, 0]), dim=1)
        latents[slots] = joined
        return *joined.split([c_kv.shape[1], key.shape[1]], dim=1), joined

    def rotate(self, x: torch.Tensor, tables: Tables, out: torch.Tensor) -> torch.Tensor:
        """``workers.model.rope.rotate`` of (T, H, rope), to the bit, to ``out``, which may have gaps."""
        return out.copy_(rotate(x, tables))

    def plan_attention(self, step: Step, page_size: int) -> Any:
        """What attention needs of a step over pages of ``page_size`` tokens, the same in all layers."""

    def attention(self, q: torch.Tensor, latents: torch.Tensor, plan: Any, shape: AttentionShape) -> torch.Tensor:
        """Causal attention of queries (T, H, latent) over one layer of the cache (slots, latent).

        Keys are whole latents, values their first ``value_size`` numbers. Returns (T, H, value_size).
        """


def make_ops(numerics: Numerics, device: torch.device) -> Ops:
    """The way that ``numerics`` asks for, on ``device``."""
    if device.type == "cpu":
        _settle_exp()
    if not numerics.deterministic:
        from workers.model.torch_ops import TorchOps

        return TorchOps()
    if device.type == "cuda":
        from workers.model.triton_ops import TritonOps

        return TritonOps()
    from workers.model.fixed_ops import FixedOps

    return FixedOps()


def _settle_exp() -> None:
    """Calls MKL's vector functions from one thread, before several do.

    Where exp, cos or log are the first of a process, and several threads share it, one in ten processes gets a part
    of the result right to 1e-4 alone, once (torch 2.13).
    """
    torch.exp(torch.zeros(16))
