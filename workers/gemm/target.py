"""What the farm asks of an implementation of the block-scaled FP8 GEMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GemmInputs:
    """Operands in the layouts that sgl-kernel takes.

    ``mat_a`` (m, k) e4m3 row-major; ``mat_b`` (k, n) e4m3 column-major; ``scales_a`` (m, k/128) float32 with
    stride(0) == 1; ``scales_b`` (k/128, ceil(n/128)) float32 with stride(0) == 1.
    """

    mat_a: torch.Tensor
    mat_b: torch.Tensor
    scales_a: torch.Tensor
    scales_b: torch.Tensor

    @property
    def m(self) -> int:
        return self.mat_a.shape[0]

    @property
    def k(self) -> int:
        return self.mat_a.shape[1]

    @property
    def n(self) -> int:
        return self.mat_b.shape[1]

    def rows(self, start: int, stop: int) -> GemmInputs:
        """The same weights with rows ``start:stop`` of A, packed anew as a batch of their own."""
        scales = self.scales_a[start:stop].t().contiguous().t()
        return GemmInputs(self.mat_a[start:stop].contiguous(), self.mat_b, scales, self.scales_b)


@dataclass(frozen=True)
class Conditions:
    """Knobs of one launch that stress turns. A target ignores those that its hardware does not have."""

    threads: int = 0
    sm_count: int = 0
    pause_us: int = 0
    pause_seed: int = 0
    poison: bool = False
    """Fill workspaces with 0xFF first: a kernel must not lean on what they held."""


QUIET = Conditions()

Launch = Callable[[Conditions], None]
Call = Callable[[], "torch.Tensor"]


class GemmTarget(Protocol):
    """One implementation, by the name that specs use for it."""

    name: str
    takes_sm_count: bool
    """Whether `Conditions.sm_count` limits the SMs, or CPU workers, that the work is split over."""

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        """Why this problem can't be run here, in one sentence, or None where it can."""

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        """Prepare everything that is not the product itself; the launch returned writes ``out`` (m, n) each time."""

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        """The product as a user calls it, with a new output each time: what is timed.

        Whatever a user prepares once for weights, or gets from the kernel before, is prepared here.
        """
