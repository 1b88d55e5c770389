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


def available() -> list[str]:
    """Without FARM_CPU_ISA the best is chosen, and whoever has it has those below."""
    order = ["portable", "avx2", "avx512"]
    return order[: order.index(load("cpu").build_info["isa"]) + 1]


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_bits(isa: str) -> None:
    if isa not in available():
        pytest.skip(f"this CPU has no {isa}")
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
