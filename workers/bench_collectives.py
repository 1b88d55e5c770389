"""Times the all-reduces of one host's ranks side by side, in processes of their own, one for each GPU.

``nccl-pinned`` is an environment, which NCCL reads once a process: it has a group of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from workers.graphs import capture
from workers.model.collectives import PINNED_NCCL, Collective, make_collective
from workers.model.sharding import Ranks
from workers.timing import seconds_between, wall_seconds

TOKENS = (1, 64, 512, 2048)
GROUPS = (("nccl", "tree", "ordered"), ("nccl-pinned",))
CALLS = 20
TURNS = 7
GROUP_SECONDS = 40.0
"""After which a group is ended, as one whose ranks wait for each other for ever."""


@dataclass(frozen=True)
class Setting:
    ranks: int
    device: str
    """cuda: rank i has GPU i, and NCCL joins them; cpu: gloo."""
    hidden: int
    tokens: tuple[int, ...] = TOKENS


@dataclass(frozen=True)
class ReduceTime:
    """One all-reduce of (tokens, hidden) bfloat16: seconds of the slowest rank, median of ``TURNS``.

    ``call_seconds`` as called from Python, ``graph_seconds`` from a CUDA graph, None where there is none.
    """

    collective: str
    implementation: str
    tokens: int
    call_seconds: float
    graph_seconds: float | None


def bench_collectives(setting: Setting) -> tuple[list[ReduceTime], dict[str, str]]:
    """What was measured, and for each group that failed or hung what became of it."""
    times: list[ReduceTime] = []
    failures: dict[str, str] = {}
    for names in GROUPS:
        with TemporaryDirectory() as folder:
            failure = _run_group(names, setting, Path(folder))
            found = Path(folder) / "times.json"
            if found.exists():
                times += [ReduceTime(**fields) for fields in json.loads(found.read_text())]
        if failure is not None:
            failures[", ".join(names)] = failure
    return times, failures


def _run_group(names: Sequence[str], setting: Setting, folder: Path) -> str | None:
    """What failed, or None."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    given = port, names, setting, folder
    processes = [context.Process(target=_rank, args=(rank, *given)) for rank in range(setting.ranks)]
    for process in processes:
        process.start()
    until = time.monotonic() + GROUP_SECONDS
    # A rank that failed leaves the others waiting.
    while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    if all(code == 0 for code in codes):
        return None
    told = [file.read_text() for file in sorted(folder.glob("failure.*"))]
    return "; ".join(told) or f"exit codes of the ranks, None where one was still running: {codes}"


def _rank(rank: int, port: int, names: Sequence[str], setting: Setting, folder: Path) -> None:
    try:
        _measure(rank, port, names, setting, folder)
    except BaseException as error:
        first_line, *_ = [*str(error).splitlines(), ""]
        (folder / f"failure.{rank}").write_text(f"rank {rank}: {type(error).__name__}: {first_line}")
        os._exit(1)  # without the process group's own end, which waits for the other ranks


def _measure(rank: int, port: int, names: Sequence[str], setting: Setting, folder: Path) -> None:
    if names == ("nccl-pinned",):
        os.environ.update(PINNED_NCCL)
    on_cuda = setting.device == "cuda"
    device = torch.device("cuda", rank) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=setting.ranks,
        device_id=device if on_cuda else None,
    )
    ranks = Ranks(rank, setting.ranks, device)
    collectives = [make_collective(name, ranks) for name in names]
    # Graphs afterwards, for all: what is known by then is kept if one of them hangs.
    times: list[ReduceTime] = []
    for collective in collectives:
        for tokens in setting.tokens:
            seconds = _call_seconds(collective, _pieces(tokens, setting, device))
            times.append(ReduceTime(collective.name, collective.implementation, tokens, seconds, None))
    _keep(times, rank, folder)
    if on_cuda:
        for place, (collective, tokens) in enumerate((c, tokens) for c in collectives for tokens in setting.tokens):
            captured = _graph_seconds(collective, _pieces(tokens, setting, device))
            times[place] = ReduceTime(**asdict(times[place]) | {"graph_seconds": captured})
            _keep(times, rank, folder)
    dist.destroy_process_group()


def _pieces(tokens: int, setting: Setting, device: torch.device) -> torch.Tensor:
    return torch.randn(1, tokens, setting.hidden, device=device).bfloat16()


def _call_seconds(collective: Collective, pieces: torch.Tensor) -> float:
    work = _calls(collective, pieces)
    work()
    return _slowest(work, pieces.device)


def _graph_seconds(collective: Collective, pieces: torch.Tensor) -> float | None:
    graph = capture(_calls(collective, pieces))
    everywhere = torch.tensor(float(graph is not None), device=pieces.device)
    dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    if not everywhere or graph is None:
        return None
    graph.replay()
    return _slowest(graph.replay, pieces.device)


def _calls(collective: Collective, pieces: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        for _ in range(CALLS):
            collective.all_reduce(pieces)

    return work


def _slowest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call of ``CALLS``, on the rank that took longest."""
    turns = []
    for _ in range(TURNS):
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            turns.append(seconds_between(work) / CALLS)
        else:
            turns.append(wall_seconds(work) / CALLS)
    slowest = torch.tensor(statistics.median(turns), dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def _keep(times: Sequence[ReduceTime], rank: int, folder: Path) -> None:
    if rank == 0:
        unfinished = folder / "times.unfinished"
        unfinished.write_text(json.dumps([asdict(one) for one in times]))
        unfinished.replace(folder / "times.json")
