"""The CUDA kernels themselves: right, repeatable, and the same row whatever the batch it comes in."""

from __future__ import annotations

import pytest
import torch

from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, NativeGemm
from workers.gemm.reference import reference_fp64, relative_error, rounding_floor
from workers.gemm.target import QUIET, Conditions, GemmInputs

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# n not a multiple of 128 or of 64, one K block, an odd number of them, K shared out to CTAs, more tiles than SMs.
SHAPES = ((2112, 7168), (576, 7168), (7168, 2304), (4608, 7168), (1544, 128), (1160, 640), (24576, 256))
POOL = 1024


def product(variant: str, inputs: GemmInputs, dtype: torch.dtype, conditions: Conditions = QUIET) -> torch.Tensor:
    out = torch.full((inputs.m, inputs.n), float("nan"), dtype=dtype, device="cuda")
    NativeGemm(variant).bind(inputs, out)(conditions)
    return out


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])


def unique(variant: str, inputs: GemmInputs, launches: int) -> int:
    weights = torch.arange(1, inputs.m * inputs.n + 1, device="cuda") * 0x9E3779B97F4A7C1
    outputs = (product(variant, inputs, torch.float32) for _ in range(launches))
    return len({int((bits(out).flatten() * weights).sum()) for out in outputs})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_errors_are_those_of_rounding(variant: str, dtype: torch.dtype) -> None:
    for n, k in SHAPES:
        for m in (1, 7, 64, 100, 128, 300):
            inputs = make_inputs(m, n, k, seed=m, device="cuda")
            reference = reference_fp64(inputs)
            error = relative_error(product(variant, inputs, dtype), reference)
            assert error <= 1.1 * rounding_floor(reference, dtype, k), (m, n, k)


def test_every_executor_adds_blocks_in_the_order_of_k() -> None:
    """As ``persistent`` does, from end to end, whoever shares out K, whether the last stages are full or not."""
    for n, k in (*SHAPES, (1536, 7168), (4096, 7168), (3072, 1536), (200, 4224), (72, 2176)):
        for m in (1, 8, 9, 16, 31, 33, 64, 100, 130, 257):
            inputs = make_inputs(m, n, k, seed=n, device="cuda")
            expected = bits(product("persistent", inputs, torch.float32))
            assert torch.equal(bits(product("invariant", inputs, torch.float32)), expected), (m, n, k)


def test_the_smallest_problem() -> None:
    inputs = make_inputs(1, 8, 128, seed=8, device="cuda")
    for variant in VARIANTS:
        assert relative_error(product(variant, inputs, torch.float32), reference_fp64(inputs)) < 1e-3


@pytest.mark.parametrize(("n", "k"), [(2112, 7168), (576, 7168), (7168, 2048), (4608, 7168), (24576, 1536)])
def test_a_row_is_the_same_in_every_batch_on_any_number_of_sms(n: int, k: int) -> None:
    pool = make_inputs(POOL, n, k, seed=0, device="cuda")
    whole = bits(product("invariant", pool, torch.float32))
    for m in [*range(1, 17), 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 777]:
        for start in (0, (POOL - m) // 2, POOL - m):
            for sm_count in (0, 114, 78):
                rows = pool.rows(start, start + m)
                part = product("invariant", rows, torch.float32, Conditions(sm_count=sm_count))
                assert torch.equal(bits(part), whole[start : start + m]), (m, start, sm_count)


@pytest.mark.parametrize("variant", ["invariant", "persistent"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_results_are_exact_ones_rounded(variant: str, dtype: torch.dtype) -> None:
    """They leave by another way, through shared memory. The shapes ask for each of the tiles in turn."""
    for n, k in ((2112, 512), (576, 2048), (1536, 1024), (3072, 512), (4096, 512), (4608, 256), (7168, 256)):
        pool = make_inputs(POOL + 3, n, k, seed=n, device="cuda")
        for m in (5, 20, 40, 64, 65, 128, 200, 333, 512, POOL + 3):
            rows = pool.rows(0, m)
            exact = product(variant, rows, torch.float32)
            assert torch.equal(bits(product(variant, rows, dtype)), bits(exact.to(dtype))), (m, n, k)


@pytest.mark.parametrize("variant", ["invariant", "persistent", "streamk-ordered"])
def test_what_should_repeat_does(variant: str) -> None:
    for m, n, k in ((128, 1536, 7168), (64, 2112, 7168), (256, 512, 16384)):
        assert unique(variant, make_inputs(m, n, k, seed=1, device="cuda"), 200) == 1


def test_the_control_flips() -> None:
    assert unique("streamk", make_inputs(128, 1536, 7168, seed=1, device="cuda"), 50) > 10


def test_an_order_that_depends_on_m_is_seen() -> None:
    """stream-K in order repeats, and its rows change with the batch: what a test of invariance has to catch."""
    pool = make_inputs(256, 1536, 7168, seed=2, device="cuda")
    whole = bits(product("streamk-ordered", pool, torch.float32))
    changed = [m for m in range(1, 256, 16) if not torch.equal(bits(product_of_rows(pool, m)), whole[:m])]
    assert changed


def product_of_rows(pool: GemmInputs, m: int) -> torch.Tensor:
    return product("streamk-ordered", pool.rows(0, m), torch.float32)


@pytest.mark.parametrize("m", [3, 64, 300])
def test_nan_and_infinity_stay_in_their_row_or_column(m: int) -> None:
    inputs = make_inputs(m, 576, 1024, seed=3, device="cuda")
    inputs.mat_a.view(torch.uint8)[1, 5] = 0x7F  # the NaN of e4m3
    inputs.scales_a[2, 1] = float("inf")
    out = product("invariant", inputs, torch.bfloat16)
    assert bool(out[1].isnan().all())
    assert not bool(out[2].isfinite().any())
    assert bool(out[[0]].isfinite().all() and out[3:].isfinite().all())


def test_scales_and_sums_below_the_normal_numbers_are_kept() -> None:
    inputs = make_inputs(16, 128, 512, seed=4, device="cuda")
    inputs.scales_a.fill_(2.0**-146)  # exact, and its products with what A and B hold lie around 2**-126
    inputs.scales_b.fill_(1.0)
    out = product("invariant", inputs, torch.float32)
    assert bool((out.abs() < torch.finfo(torch.float32).tiny).any())
    assert relative_error(out, reference_fp64(inputs)) < 1e-3


@pytest.mark.parametrize("m", [20, 100, 300])
@pytest.mark.parametrize("n", [576, 2112])
def test_rows_further_apart_than_they_are_long_and_scales_from_any_float_on(m: int, n: int) -> None:
    packed = make_inputs(m, n, 1024, seed=5, device="cuda")
    for before in range(4):
        apart = GemmInputs(
            torch.nn.functional.pad(packed.mat_a.view(torch.uint8), (0, 64)).view(packed.mat_a.dtype)[:, :1024],
            packed.mat_b,
            torch.nn.functional.pad(packed.scales_a.t(), (before, 3)).t()[before : before + m],
            torch.nn.functional.pad(packed.scales_b.t(), (before, 2)).t()[before : before + 8],
        )
        assert torch.equal(product("invariant", apart, torch.float32), product("invariant", packed, torch.float32))
