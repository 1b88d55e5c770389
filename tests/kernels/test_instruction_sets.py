from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.kernels.isa_digests import digests
from workers.gemm.native import load


def child(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FARM_CPU_ISA": isa}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


ORDER = ["portable", "avx2", "avx512", "amx"]


def available() -> list[str]:
    """Without FARM_CPU_ISA the best is chosen, and whoever has it has those below."""
    return ORDER[: ORDER.index(load("cpu").build_info["isa"]) + 1]


@pytest.mark.parametrize("isa", ORDER)
def test_every_instruction_set_gives_the_same_bits(isa: str) -> None:
    if isa not in available():
        pytest.skip(f"this CPU, its kernel or this compiler has no {isa}")
    done = child(isa, "-m", "tests.kernels.isa_digests")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["isa"] == isa
    mine = digests()
    assert {case for case in mine if mine[case] != told["digests"][case]} == set()


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    code = (
        "import torch; from workers.errors import KernelError; from tests.kernels.cases import inputs_of, run\n"
        "try: run('invariant', inputs_of(1, 8, 128), torch.float32)\n"
        "except KernelError as error: print(error)"
    )
    told = child("avx1024", "-c", code).stdout
    assert "FARM_CPU_ISA is 'avx1024'; this CPU and build allow:" in told and "portable" in told


# Linux refuses the tile registers to a process with a thread whose alternate signal stack can't hold them.
SMALL_SIGNAL_STACK = """
import ctypes
import torch
from tests.kernels.cases import inputs_of, run
from workers.gemm.native import load

class Stack(ctypes.Structure):
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))

memory = ctypes.create_string_buffer(4096)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
print(load("cpu").build_info["isa"], float(run("invariant", inputs_of(1, 8, 128), torch.float32).isfinite().all()))
"""


def test_without_leave_to_use_tiles_the_next_best_is_taken() -> None:
    if "amx" not in available():
        pytest.skip("this CPU, its kernel or this compiler has no amx")
    assert child("", "-c", SMALL_SIGNAL_STACK).stdout == "avx512 1.0\n"
