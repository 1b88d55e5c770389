from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from workers.errors import KernelError
from workers.gemm.inputs import make_inputs
from workers.gemm.native import OUT_DTYPES, VARIANTS, NativeGemm, NativeLibrary, multiply
from workers.gemm.reference import reference_fp64, relative_error
from workers.gemm.target import QUIET, Conditions, GemmInputs, GemmTarget

CPU = torch.device("cpu")
INPUTS = make_inputs(24, 136, 512, seed=0, device=CPU)


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_product_in_sgl_kernels_layouts(variant: str, dtype: torch.dtype) -> None:
    out = multiply(INPUTS, dtype, variant)
    assert out.shape == (24, 136) and out.dtype == dtype
    assert relative_error(out, reference_fp64(INPUTS)) < 2**-8


def test_native_kernels_are_targets() -> None:
    targets: list[GemmTarget] = [NativeGemm(variant) for variant in VARIANTS]
    assert [target.name for target in targets] == list(VARIANTS)


def test_a_launch_keeps_its_operands_alive_and_takes_new_conditions() -> None:
    inputs = make_inputs(16, 128, 4096, seed=1, device=CPU)
    expected = reference_fp64(inputs)
    out = torch.empty(16, 128)
    launch = NativeGemm("streamk-ordered").bind(inputs, out)
    del inputs
    for conditions in (QUIET, Conditions(sm_count=1), Conditions(sm_count=1000, threads=3), Conditions(pause_us=10)):
        out.zero_()
        launch(conditions)
        assert relative_error(out, expected) < 1e-6


def test_dimensions_of_size_one_may_have_any_stride() -> None:
    inputs = make_inputs(1, 8, 128, seed=0, device=CPU)
    odd = GemmInputs(*(x.as_strided(x.shape, _odd_strides(x)) for x in vars(inputs).values()))
    assert torch.equal(_product(odd), _product(inputs))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mat_a": INPUTS.mat_a.to(torch.bfloat16)}, "mat_a is torch.bfloat16; it must be torch.float8_e4m3fn"),
        ({"scales_b": INPUTS.scales_b.double()}, "scales_b is torch.float64; it must be torch.float32"),
        ({"mat_a": INPUTS.mat_a[0]}, "mat_a has shape (512,); it must have two dimensions"),
        ({"mat_b": INPUTS.mat_b[:256]}, "mat_b has shape (256, 136); for mat_a (24, 512) and n = 136 it must be"),
        ({"mat_b": INPUTS.mat_b[:, :132]}, "(m, n, k) is (24, 132, 512); m must be at least 1"),
        ({"mat_a": INPUTS.mat_a[:, :500]}, "(m, n, k) is (24, 136, 500); m must be at least 1"),
        (
            {"scales_a": INPUTS.scales_a[:, :3]},
            "scales_a has shape (24, 3); for mat_a (24, 512) and n = 136 it must be",
        ),
        ({"scales_b": INPUTS.scales_b[:, :1]}, "scales_b has shape (4, 1); for mat_a (24, 512) and n = 136 it must be"),
        (
            {"mat_b": INPUTS.mat_b.contiguous()},
            "it must be column-major, stride(0) == 1 and stride(1) >= 512: use mat_b.t().contiguous().t()",
        ),
        ({"mat_a": INPUTS.mat_a.t().contiguous().t()}, "it must be row-major, stride(1) == 1"),
        ({"scales_a": INPUTS.scales_a.contiguous()}, "use scales_a.t().contiguous().t()"),
        ({"scales_a": INPUTS.scales_a[:1].expand(24, 4)}, "scales_a (24, 4) has strides (0, 24)"),
        ({"mat_a": INPUTS.mat_a.to("meta")}, "mat_a is on meta, mat_a on meta; all must be on one cpu or cuda device"),
        ({"scales_b": INPUTS.scales_b.to("meta")}, "scales_b is on meta, mat_a on cpu"),
    ],
)
def test_operands_that_do_not_fit_are_refused(changes: dict[str, torch.Tensor], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        _product(GemmInputs(**{**vars(INPUTS), **changes}))


def test_an_unknown_variant_or_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="variant is 'split-k'; allowed are streamk, streamk-ordered, persistent"):
        NativeGemm("split-k")
    with pytest.raises(
        ValueError, match=re.escape("out_dtype is torch.float64; allowed are bfloat16, float16, float32")
    ):
        multiply(INPUTS, torch.float64, "invariant")


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(24, 128),
        torch.empty(24, 136, device="meta"),
        torch.empty(136, 24).t(),
        torch.empty(1, 136).expand(24, 136),
    ],
)
def test_an_output_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^out "):
        NativeGemm("invariant").bind(INPUTS, out)


def test_what_is_unsupported_is_said_in_a_sentence() -> None:
    def why(m: int, n: int, k: int, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> str | None:
        return NativeGemm("invariant").unsupported(m, n, k, dtype, torch.device(device))

    assert why(1, 8, 128) is None
    assert why(1, 9, 128) == "invalid argument: n is 9; it must be a positive multiple of 8"
    assert why(1, 8, 100) == "invalid argument: k is 100; it must be a positive multiple of 128"
    assert "out_dtype is torch.int8" in (why(1, 8, 128, torch.int8) or "")
    assert "run on cpu and cuda" in (why(1, 8, 128, device="meta") or "")
    if not torch.cuda.is_available():
        assert "sees no CUDA GPU" in (why(1, 8, 128, device="cuda") or "")


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libfarm_cpu.so").write_bytes(b"\x7fELF but not really")
    with pytest.raises(KernelError, match=r"can't be loaded.*remove it to have it built again"):
        NativeLibrary(tmp_path / "libfarm_cpu.so")


def _product(inputs: GemmInputs) -> torch.Tensor:
    return multiply(inputs, torch.bfloat16, "invariant")


def _odd_strides(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(stride if size > 1 else 77 for size, stride in zip(x.shape, x.stride(), strict=True))
