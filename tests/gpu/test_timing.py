from __future__ import annotations

import gc
import statistics

import pytest
import torch

from workers.gemm.inputs import make_inputs
from workers.gemm.native import NativeGemm
from workers.gemm.target import Call
from workers.graphs import capture
from workers.timing import LaunchTimes, rotated, seconds_between, time_launches


def copies(mebibytes: int, count: int) -> list[Call]:
    """Calls whose time is known to grow with their size."""
    sources = [torch.zeros(mebibytes << 20, dtype=torch.uint8, device="cuda") for _ in range(count)]
    return [source.clone for source in sources]


def test_copies_are_apart_and_hold_the_same_weights() -> None:
    inputs = make_inputs(4, 576, 7168, seed=0, device="cuda")
    operands = rotated(inputs)
    assert len({given.mat_b.data_ptr() for given in operands}) == len(operands)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    assert sum(given.mat_b.numel() for given in operands) > 2 * cache
    for given in operands:
        assert given.mat_b.stride() == inputs.mat_b.stride()
        assert torch.equal(given.mat_b.view(torch.uint8), inputs.mat_b.view(torch.uint8))


def test_graphs_take_the_time_that_one_long_launch_shows() -> None:
    times = time_launches({"small": copies(64, 4), "large": copies(256, 4)}, turns=9)
    assert all(found.captured and len(found.seconds) == 9 for found in times.values())
    assert times["large"].median / times["small"].median == pytest.approx(4, rel=0.25)
    source = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    alone = statistics.median(seconds_between(lambda: target.copy_(source)) for _ in range(20))
    assert times["large"].median == pytest.approx(alone, rel=0.25)


def test_weights_in_the_cache_would_have_looked_faster() -> None:
    # Memory is what this one waits for: at 2112 x 7168 the chain of K blocks takes as long from either.
    inputs = make_inputs(1, 12288, 1536, seed=0, device="cuda")
    target = NativeGemm("invariant")
    cold = [target.call(given, torch.bfloat16) for given in rotated(inputs)]
    times = time_launches({"cold": cold, "hot": [cold[0]] * len(cold)}, turns=15)
    assert times["hot"].median < times["cold"].median


def test_what_can_not_be_captured_is_timed_all_the_same_and_others_are_not_harmed() -> None:
    source = torch.zeros(1 << 20, device="cuda")

    def waits() -> torch.Tensor:
        product = source * 2
        torch.cuda.synchronize()
        return product

    before = torch.cuda.current_stream()
    times = time_launches({"waits": [waits] * 2, "streams": [lambda: source * 2] * 2}, turns=5)
    assert torch.cuda.current_stream() == before
    assert not times["waits"].captured
    assert times["streams"].captured
    assert 0 < times["streams"].median < times["waits"].median


def test_later_captures_work_after_one_that_failed() -> None:
    def fails() -> torch.Tensor:
        return torch.ones(1, device="cuda").cpu()

    assert not captured(time_launches({"fails": [fails, fails]}, turns=2))
    assert captured(time_launches({"works": copies(1, 2)}, turns=2))


def test_a_graph_in_the_garbage_breaks_off_no_capture() -> None:
    copy = copies(1, 1)[0]
    garbage: list[object] = [capture(copy)]
    assert garbage[0] is not None
    garbage.append(garbage)
    del garbage
    threshold = gc.get_threshold()
    gc.set_threshold(1)  # as soon as anything is made that may hold others
    try:
        assert capture(lambda: [[copy()] for _ in range(10)]) is not None
    finally:
        gc.set_threshold(*threshold)


def captured(times: dict[str, LaunchTimes]) -> bool:
    return all(found.captured for found in times.values())
