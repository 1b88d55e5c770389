"""Steps for tests, as an engine would pack them: sequences in a paged cache, any of their tokens at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from workers.model.cache import LatentCache
from workers.model.collectives import make_collective
from workers.model.config import PRESETS, ModelConfig
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.recorder import Recorder
from workers.model.sharding import Ranks
from workers.model.step import Step
from workers.model.weights import RandomWeights

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
NANO = PRESETS["deepseek-v3-nano"]
DETERMINISTIC = Numerics("invariant", torch.bfloat16, deterministic=True)


def build(
    numerics: Numerics = DETERMINISTIC,
    config: ModelConfig = NANO,
    *,
    ranks: Ranks = ALONE,
    collective: str = "ordered",
    recorder: Recorder | None = None,
) -> DeepseekV3:
    source = RandomWeights(config, 7, ranks.device)
    return DeepseekV3(config, source, ranks, make_collective(collective, ranks), numerics, recorder)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@dataclass
class Server:
    """A model with its cache, and what it holds of each sequence. Pages are given out from the last to the first."""

    model: DeepseekV3
    dtype: torch.dtype = torch.bfloat16
    pages: int = 256
    page_size: int = 16
    device: torch.device = CPU
    tables: dict[str, list[int]] = field(default_factory=dict)
    _lengths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = LatentCache(
            self.model.config, pages=self.pages, page_size=self.page_size, dtype=self.dtype, device=self.device
        )
        self._free = list(range(self.pages))

    def run(self, work: dict[str, list[int]], *, all_rows: bool = False) -> torch.Tensor:
        """New tokens of some sequences in one step; logits of each one's last token, or of all."""
        return self.model.forward(self.step(work, all_rows=all_rows), self.cache)

    def step(self, work: dict[str, list[int]], *, all_rows: bool = False) -> Step:
        positions, slots, starts = [], [], [0]
        for label, tokens in work.items():
            first = self._lengths.get(label, 0)
            self._lengths[label] = first + len(tokens)
            table = self.tables.setdefault(label, [])
            while len(table) * self.page_size < self._lengths[label]:
                table.append(self._free.pop())
            for position in range(first, self._lengths[label]):
                positions.append(position)
                slots.append(table[position // self.page_size] * self.page_size + position % self.page_size)
            starts.append(starts[-1] + len(tokens))
        widest = max(len(self.tables[label]) for label in work)
        tables = [self.tables[label] + [-1] * (widest - len(self.tables[label])) for label in work]
        rows = range(starts[-1]) if all_rows else [stop - 1 for stop in starts[1:]]
        return Step(
            tokens=self._tensor([token for tokens in work.values() for token in tokens]),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            starts=tuple(starts),
            lengths=tuple(self._lengths[label] for label in work),
            page_tables=self._tensor(tables).int(),
            logit_rows=self._tensor(list(rows)),
            labels=tuple(work),
        )

    def _tensor(self, values: list[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, device=self.device)
