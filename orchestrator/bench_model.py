"""What `farm bench --model` measures: decoding, prefill, what determinism costs, and the all-reduces of this host."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from workers.bench_model import DecodeTime, ModelBench
    from workers.ceilings import Rates
    from workers.model.numerics import Numerics

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 1024
PREFILL = 1024
CPU_RANKS = 2


@dataclass(frozen=True)
class Way:
    """How a model computes in one of the two halves of the comparison."""

    gemm: str
    deterministic: bool


WAYS = {"deterministic": Way("invariant", True), "ordinary": Way("streamk", False)}


def bench_model_documents(preset: str, device: Literal["cpu", "cuda"]) -> Iterator[tuple[str, dict[str, Any]]]:
    """After each part what it was, and a document with those so far. A part that fails is text in its place.

    Raises BuildError where the kernels can't be built.
    """
    import torch

    from workers.build import build
    from workers.environment import capture
    from workers.model.config import PRESETS

    where = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    environment = capture(where, build(device).key)
    floor = _floor(where, environment.device)
    document: dict[str, Any] = {
        "environment": environment.model_dump(mode="json"),
        "model": preset,
        "floor": floor and {"bytes_per_second": floor.bytes, "source": floor.source},
        "ways": {},
    }
    for name, way in WAYS.items():
        document["ways"][name] = asdict(way) | _way(preset, way, where, floor)
        yield f"{name}: decode and prefill measured", document
    document["cost_of_determinism"] = cost_of_determinism(document["ways"])
    document["all_reduce"] = _all_reduces(device, PRESETS[preset].hidden_size)
    yield "all-reduces measured", document


def cost_of_determinism(ways: dict[str, Any]) -> dict[str, Any]:
    """Times of the deterministic way over those of the ordinary one; None where either failed."""
    ours, other = ways["deterministic"], ways["ordinary"]
    decode: dict[str, float] = {}
    for row in ours["decode"]:
        for beside in other["decode"]:
            if beside["batch"] == row["batch"]:
                decode[str(row["batch"])] = row["seconds"] / beside["seconds"]
    measured = ours["prefill"] is not None and other["prefill"] is not None
    prefill = ours["prefill"]["seconds"] / other["prefill"]["seconds"] if measured else None
    return {"decode": decode, "prefill": prefill}


def decode_record(timed: DecodeTime, floor: Rates | None) -> dict[str, Any]:
    """``times_floor`` is the time over that of reading the weights once."""
    found = asdict(timed)
    for part in (found, found["engine"]):
        if part is not None:
            least = part["weight_bytes"] / floor.bytes if floor else None
            part["tokens_per_second"] = timed.batch / part["seconds"]
            part["floor_seconds"] = least
            part["times_floor"] = part["seconds"] / least if least else None
    return found


def _way(preset: str, way: Way, device: torch.device, floor: Rates | None) -> dict[str, Any]:
    """Decode and prefill, as far as they go, and what failed."""
    import torch

    from workers.bench_model import ModelBench
    from workers.model.config import PRESETS
    from workers.model.numerics import Numerics

    numerics: Numerics = Numerics(way.gemm, torch.bfloat16, way.deterministic)
    found: dict[str, Any] = {"decode": [], "prefill": None, "failures": []}
    started = time.perf_counter()
    try:
        bench = ModelBench(PRESETS[preset], numerics, device, batch=max(BATCHES), context=CONTEXT)
        found["load_seconds"] = time.perf_counter() - started
        _measure(bench, found, floor)
        del bench
    except Exception as error:  # the rest of the bench can be done all the same
        found["failures"].append(f"model: {_told(error)}")
    # The next model needs the memory.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _measure(bench: ModelBench, found: dict[str, Any], floor: Rates | None) -> None:
    try:
        timed = bench.prefill(PREFILL)
        found["prefill"] = asdict(timed) | {
            "tokens_per_second": timed.tokens / timed.seconds,
            "gemm_share": timed.gemm_share,
        }
    except Exception as error:
        found["failures"].append(f"prefill of {PREFILL} tokens: {_told(error)}")
    for batch in BATCHES:
        try:
            found["decode"].append(decode_record(bench.decode(batch), floor) | {"context": CONTEXT})
        except Exception as error:
            found["failures"].append(f"decode of {batch} sequences: {_told(error)}")


def _all_reduces(device: Literal["cpu", "cuda"], hidden: int) -> dict[str, Any]:
    import torch

    from workers.bench_collectives import Setting, bench_collectives

    ranks = torch.cuda.device_count() if device == "cuda" else CPU_RANKS
    if ranks < 2:
        return {"ranks": ranks, "times": [], "failures": {"all": f"needs two ranks, and this host has {ranks}"}}
    times, failures = bench_collectives(Setting(ranks, device, hidden))
    return {"ranks": ranks, "hidden": hidden, "times": [asdict(one) for one in times], "failures": failures}


def _floor(device: torch.device, name: str) -> Rates | None:
    """None on a CPU, whose caches may hold a part of the weights."""
    from workers.ceilings import measure_rates, rates_for

    return rates_for(name, measure_rates(device)) if device.type == "cuda" else None


def _told(error: Exception) -> str:
    first_line, *_ = [*str(error).splitlines(), ""]
    return f"{type(error).__name__}: {first_line}"
