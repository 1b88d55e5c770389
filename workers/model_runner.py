"""Runs units of a model job on one rank: batches, answers, digests, and the first samples of each digest."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import xxhash

from specs.device import Device
from specs.job import Mode
from specs.model_job import ModelJob, ModelTarget
from specs.result import Environment, Generation, UnitResult
from specs.subject import Prompt
from specs.uniqueness import Cell, UniquenessTable
from specs.unit import Group, ModelUnit
from workers.build import Backend, build
from workers.drawing import PAIRED, TIMED, batches_text, counted_as, drawn, read_prompts
from workers.engine.engine import Engine, EngineOptions
from workers.engine.modes import Sample, Trial, play
from workers.engine.request import Completion, Request
from workers.engine.tokenizer import Tokenizer, load_tokenizer
from workers.environment import capture
from workers.gemm.targets import find_target
from workers.ledger import KEPT_SAMPLES, Ledger
from workers.model.collectives import make_collective
from workers.model.config import PRESETS, ModelConfig
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.sharding import Ranks
from workers.model.weights import HuggingFaceFolder, RandomWeights, WeightSource
from workers.problem import TORCH_DTYPES
from workers.runner import Known, Outputs
from workers.trace.explain import Explanation, Flip, explain
from workers.trace.recorder import TraceRecorder
from workers.trace.replay import Replayer


class ModelRunner:
    """One rank of a target, its model loaded once. All ranks run the same units in the same order.

    With more than one rank torch.distributed must have been initialised. Raises UsageError for a model that can't be
    read or cut over the ranks, or that a GEMM can't multiply.
    """

    def __init__(self, job: ModelJob, target: ModelTarget, rank: int, device: torch.device) -> None:
        backend: Backend = "cuda" if device.type == "cuda" else "cpu"
        self.environment: Environment = capture(device, build(backend).key)
        self._job, self._device = job, device
        self._trials: dict[Mode, list[Trial]] = {}
        self._unsupported = _unsupported(target, TORCH_DTYPES[job.dtype], device)
        if self._unsupported is not None:
            return
        folder = Path(job.model.path) if job.model.path is not None else None
        self._config, source = _model(job, folder, device)
        self._tokenizer = load_tokenizer(folder)
        ranks = Ranks(rank, target.tp, device)
        numerics = Numerics(target.gemm, TORCH_DTYPES[job.dtype], target.deterministic, target.tp_granularity)
        collective = make_collective(target.collective.value, ranks)
        recorder = TraceRecorder(device, job.page_size) if job.trace else None
        model = DeepseekV3(self._config, source, ranks, collective, numerics, recorder)
        engine = Engine(model, _options(job, self._tokenizer), recorder)
        self._engine = engine
        self._replayer = Replayer(engine, recorder, ranks) if recorder is not None else None

    def run(self, unit: ModelUnit, attempt: int, known: Known) -> Outputs:
        """Run one unit. Raises UsageError for prompts that do not fit the model or its cache."""
        started = time.perf_counter()
        table, samples, generation = UniquenessTable(), dict[Group, dict[str, bytes]](), None
        batches: str | None = None
        explained = Explanation()
        if self._unsupported is None:
            count = _Count(self._job, unit, attempt, self.environment, table, known)
            self._engine.flush_cache()  # so that another attempt meets the same
            trials = self._batches(unit)
            batches = batches_text(trials)
            for trial in trials:
                count.trial(trial, play(trial, self._engine))
            generation, samples = _timed(trials[len(trials) // 2], self._engine, self._device), count.kept
            if self._replayer is not None:
                explained = explain(self._job, unit, self._replayer, self._trials[unit.mode], count.flips())
        result = UnitResult(
            unit=unit.index,
            attempt=attempt,
            environment=self.environment,
            cells=table.records(),
            generation=generation,
            divergences=explained.divergences,
            coverage=explained.coverage,
            unsupported=self._unsupported,
            seconds=time.perf_counter() - started,
        )
        return Outputs(result, samples, batches, explained.artefacts)

    def _batches(self, unit: ModelUnit) -> list[Trial]:
        if unit.mode not in self._trials:
            longest = self._config.max_position_embeddings - self._job.max_new_tokens
            self._trials[unit.mode] = drawn(
                self._job,
                unit.mode,
                read_prompts(self._job),
                self._tokenizer,
                vocab_size=self._config.vocab_size,
                longest=longest,
            )
        first = unit.first_trial - 1
        return self._trials[unit.mode][first : first + unit.trials]


class _Count:
    """Counts the samples of one unit into the cells of its groups, and keeps the bytes that witnesses need."""

    def __init__(
        self, job: ModelJob, unit: ModelUnit, attempt: int, where: Environment, table: UniquenessTable, known: Known
    ) -> None:
        self._job, self._unit = job, unit
        self._shown: dict[str, int] = {}
        """Of each prompt, how many distinct samples the farm has from other units."""
        self._cells: dict[str, Cell] = {}
        """Of each prompt, that of one of its groups: all groups of a prompt count the same samples."""
        self._ledgers: dict[str, list[Ledger]] = {}
        self.kept: dict[Group, dict[str, bytes]] = {}
        """Of each group, samples by digest in hex."""
        for group in unit.groups:
            assert isinstance(group.subject, Prompt)
            cell = table.cell(group, where.stratum)
            ledger = Ledger(unit, attempt, where, cell, known.get(group, frozenset()))
            self._cells.setdefault(group.subject.name, cell)
            self._ledgers.setdefault(group.subject.name, []).append(ledger)
            self.kept[group] = ledger.samples
            self._shown.setdefault(group.subject.name, len(known.get(group, ())))
        self._bytes: dict[bytes, bytes] = {}

    def flips(self) -> list[Flip]:
        """One of each prompt that parted here and that no unit before has shown to part."""
        found = []
        for name, cell in self._cells.items():
            parted = (item for item, tallies in cell.items.items() if len(tallies) > 1)
            item = next(parted, None)
            if item is not None and self._shown[name] < KEPT_SAMPLES:
                batches = dict.fromkeys(tally.first.trial for tally in cell.items[item].values())
                found.append(Flip(name, item, tuple(batches)[:2]))
        return found

    def trial(self, trial: Trial, samples: list[Sample]) -> None:
        """All samples of one batch."""
        begun: set[str] = set()
        for sample in samples:
            digest = xxhash.xxh3_128_digest(sample.data)
            self._bytes.setdefault(digest, sample.data)
            conditions = f"row {sample.row} of {len(trial.rows)}"
            for name, item in counted_as(self._job, sample, self._unit.mode):
                for ledger in self._ledgers[name]:
                    if name not in begun:
                        ledger.begin_trial()
                    first = ledger.count(digest, trial.number, item, conditions)
                    self._keep(ledger, digest, first, paired=self._unit.mode in PAIRED)
                begun.add(name)

    def _keep(self, ledger: Ledger, digest: bytes, first: bytes | None, *, paired: bool) -> None:
        if first is not None:
            ledger.keep(first, self._bytes[first])
        # Of pairs only one that parted is of use; elsewhere another unit may have what this sample parts from.
        if first is not None or not paired:
            ledger.keep(digest, self._bytes[digest])


class _Stopwatch:
    """The engine, with a count of what it generates and how long that takes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.generation = Generation(prompt_tokens=0, new_tokens=0, seconds=0.0)

    def generate(self, requests: list[Request]) -> list[Completion]:
        started = time.perf_counter()
        completions = self._engine.generate(requests)
        before = self.generation
        self.generation = Generation(
            prompt_tokens=before.prompt_tokens + sum(len(request.tokens) for request in requests),
            new_tokens=before.new_tokens + sum(len(completion.tokens) for completion in completions),
            seconds=before.seconds + time.perf_counter() - started,
        )
        return completions

    def flush_cache(self) -> None:
        self._engine.flush_cache()


def _timed(trial: Trial, engine: Engine, device: torch.device) -> Generation:
    """Of a batch with an empty cache."""
    for _ in range(TIMED[Device(device.type)]):
        engine.flush_cache()
        stopwatch = _Stopwatch(engine)
        play(trial, stopwatch)
    return stopwatch.generation


def _unsupported(target: ModelTarget, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the target's GEMM can't run here, asked with a problem that every implementation can take."""
    if target.gemm is None:
        return None
    return find_target(target.gemm).unsupported(128, 1024, 1024, dtype, device)


def _model(job: ModelJob, folder: Path | None, device: torch.device) -> tuple[ModelConfig, WeightSource]:
    if folder is not None:
        return ModelConfig.from_folder(folder), HuggingFaceFolder(folder, device)
    assert job.model.random is not None
    config = PRESETS[job.model.random.preset]
    return config, RandomWeights(config, job.model.random.seed, device)


def _options(job: ModelJob, tokenizer: Tokenizer) -> EngineOptions:
    return EngineOptions(
        pages=job.pages,
        page_size=job.page_size,
        chunk=job.chunk,
        max_running=job.max_running,
        stop_tokens=tokenizer.stop_tokens,
    )
