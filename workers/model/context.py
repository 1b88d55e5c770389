"""What every part of a model shares: sizes, numerics, this rank's pieces, and where operations are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from workers.model.collectives import Collective
from workers.model.config import ModelConfig
from workers.model.numerics import Numerics
from workers.model.ops import Ops
from workers.model.recorder import NO_NUMBERS, Recorder
from workers.model.sharding import Pieces, Ranks
from workers.model.weights import WeightSource


@dataclass(frozen=True)
class Context:
    config: ModelConfig
    numerics: Numerics
    source: WeightSource
    ranks: Ranks
    pieces: Pieces
    ops: Ops
    collective: Collective
    recorder: Recorder

    def ran(
        self,
        name: str,
        kind: str,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        weights: tuple[torch.Tensor, ...] = (),
        numbers: Mapping[str, float] = NO_NUMBERS,
        cache: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tells the recorder of one of ``ops``; returns ``output``."""
        told = name, kind, f"{self.ops.source}:{kind}", inputs, output
        self.recorder.op(*told, tokens=tokens, weights=weights, numbers=numbers, cache=cache)
        return output

    def moved(self, name: str, kind: str, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Tells the recorder of data that were moved about, bit for bit; returns ``output``."""
        self.recorder.op(name, kind, "torch", inputs, output)
        return output

    def all_reduce(self, name: str, pieces: torch.Tensor) -> torch.Tensor:
        """(P, T, n) partial sums of this rank to (T, n) over all ranks."""
        given = tuple(pieces)
        spared = self.recorder.active and self.collective.in_place
        total = self.collective.all_reduce(pieces.clone() if spared else pieces)
        self.recorder.op(name, "all_reduce", self.collective.implementation, given, total)
        return total

    def add(self, name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        total = x + y
        self.recorder.op(name, "residual", "torch.add", (x, y), total)
        return total
