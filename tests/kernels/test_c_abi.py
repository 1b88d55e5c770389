from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.kernels.cases import inputs_of
from workers import observe
from workers.build import kernels_folder
from workers.errors import KernelError
from workers.gemm import grouped, native

HEADER = kernels_folder() / "include" / "farm_kernels.h"


@pytest.mark.parametrize(
    "header, struct, mirror",
    [
        ("farm_kernels.h", "farm_gemm", native.FarmGemm),
        ("farm_grouped.h", "farm_groups", grouped.FarmGroups),
        ("farm_observe.h", "farm_rows", observe.FarmRows),
    ],
)
def test_the_ctypes_struct_is_the_header_s(
    header: str, struct: str, mirror: type[ctypes.Structure], tmp_path: Path
) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler
    fields = [field[0] for field in mirror._fields_]
    prints = "\n".join(f'  printf("{name} %zu\\n", offsetof({struct}, {name}));' for name in fields)
    (tmp_path / "layout.cpp").write_text(
        f'#include <cstdio>\n#include "{HEADER.parent / header}"\n'
        f'int main() {{\n{prints}\n  printf("%zu\\n", sizeof({struct}));\n}}\n'
    )
    subprocess.run([compiler, "layout.cpp", "-o", "layout"], cwd=tmp_path, check=True)
    told = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.split("\n")
    offsets = [f"{name} {getattr(mirror, name).offset}" for name in fields]
    assert told == [*offsets, str(ctypes.sizeof(mirror)), ""]


def test_the_numbers_are_the_header_s() -> None:
    constants = dict(re.findall(r"\bFARM_(\w+)(?: = | )(\d+)", HEADER.read_text()))
    for variant, number in native.VARIANTS.items():
        assert int(constants[variant.replace("-", "_").upper()]) == number
    names = {torch.bfloat16: "BF16", torch.float16: "FP16", torch.float32: "FP32"}
    assert {names[dtype]: number for dtype, number in native.OUT_DTYPES.items()} == {
        name: int(constants[name]) for name in names.values()
    }
    assert int(constants["ABI_VERSION"]) == native._ABI_VERSION


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("struct_size", 8, "invalid argument: struct_size is 8; this library (ABI 1) has"),
        ("variant", 4, "variant is 4; allowed are 0 (streamk) to 3 (invariant)"),
        ("out_dtype", -1, "out_dtype is -1; allowed are 0 (bf16), 1 (fp16), 2 (fp32)"),
        ("m", 0, "m is 0; it must be at least 1"),
        ("n", 12, "n is 12; it must be a positive multiple of 8"),
        ("k", 200, "k is 200; it must be a positive multiple of 128"),
        ("a", None, "a is a null pointer"),
        ("scale_b", 1, "scale_b is at address 0x1; it must be a multiple of 4"),
        ("d", 1, "d is at address 0x1; it must be a multiple of 2"),
        ("lda", 8191, "lda is 8191; it must be at least 8192 (k)"),
        ("ldb", 0, "ldb is 0; it must be at least 8192 (k)"),
        ("ld_scale_a", 15, "ld_scale_a is 15; it must be at least 16 (m)"),
        ("ld_scale_b", 63, "ld_scale_b is 63; it must be at least 64 (k / 128)"),
        ("ldd", -8, "ldd is -8; it must be at least 128 (n)"),
        ("threads", -1, "threads is -1; allowed are 0 to 1024"),
        ("sm_count", 1 << 20, "sm_count is 1048576; allowed are 0 to 65536"),
        ("pause_us", 2000000, "pause_us is 2000000; allowed are 0 to 1000000"),
        ("workspace_bytes", 100, "workspace too small: workspace_bytes is 100; farm_gemm_workspace asks for 4194304"),
        ("workspace", None, "workspace is a null pointer"),
    ],
)
def test_the_library_refuses_what_it_can_not_run(field: str, value: int | None, told: str) -> None:
    inputs = inputs_of(16, 128, 8192)
    out = torch.zeros(16, 128, dtype=torch.bfloat16)
    args = native._arguments(inputs, out, native.VARIANTS["streamk-ordered"])
    library = native.load("cpu")
    space = torch.empty(library.workspace_bytes(args), dtype=torch.uint8)
    args.workspace, args.workspace_bytes = space.data_ptr(), space.numel()
    library.run(args)
    out.zero_()
    setattr(args, field, value)
    with pytest.raises(KernelError, match=re.escape(told)):
        library.run(args)
    assert not out.any()


def test_the_last_error_is_that_of_the_last_call() -> None:
    library = ctypes.CDLL(str(native.load("cpu").path))
    library.farm_last_error.restype = ctypes.c_char_p
    library.farm_status_message.restype = ctypes.c_char_p
    args = native.FarmGemm(struct_size=ctypes.sizeof(native.FarmGemm), m=1, n=8, k=100)
    size = ctypes.c_size_t()
    assert library.farm_gemm_workspace(ctypes.byref(args), ctypes.byref(size)) == 1
    assert library.farm_last_error() == b"k is 100; it must be a positive multiple of 128"
    args.k = 128
    assert library.farm_gemm_workspace(ctypes.byref(args), ctypes.byref(size)) == 0
    assert library.farm_last_error() == b""
    assert [library.farm_status_message(status) for status in (0, 5, 99)] == [
        b"ok",
        b"launch failed",
        b"unknown status",
    ]


def test_the_library_says_how_it_was_built() -> None:
    info = native.load("cpu").build_info
    assert info["backend"] == "cpu" and info["abi"] == 1
    assert info["isa"] in ("amx", "avx512", "avx2", "portable") and info["isa_chosen_by"] in ("cpuid", "FARM_CPU_ISA")
    assert "-ffp-contract=off" in info["flags"] and info["compiler"]
