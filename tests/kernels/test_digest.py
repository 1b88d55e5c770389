"""Digests of rows by the CPU's library, against the definition in farm_observe.h."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.errors import KernelError
from workers.observe import RowDigester

CPU = torch.device("cpu")


def by_numpy(row: bytes) -> list[int]:
    """What row_digest.h says, in arithmetic modulo 2**64."""
    words = np.frombuffer(row.ljust(-(-len(row) // 8) * 8, b"\0"), dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = words + np.arange(1, len(words) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        x ^= x >> np.uint64(32)
        high = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        return [int(x.sum()), int(high.sum())]


def digests(memory: NDArray[np.uint8], rows: int, length: int, stride: int) -> list[list[int]]:
    found = torch.zeros(rows, 2, dtype=torch.int64)
    RowDigester(CPU)((memory.ctypes.data, rows, length, stride), found.data_ptr())
    return [[int(word) for word in row] for row in found.numpy().view(np.uint64)]


@given(st.integers(0, 7), st.integers(1, 5), st.integers(1, 300), st.integers(0, 20), st.integers(0, 1000))
def test_rows_of_any_length_at_any_address(shift: int, rows: int, length: int, gap: int, seed: int) -> None:
    stride = length + gap
    memory = np.random.default_rng(seed).integers(0, 256, shift + rows * stride, dtype=np.uint8)[shift:]
    expected = [by_numpy(memory[row * stride : row * stride + length].tobytes()) for row in range(rows)]
    assert digests(memory, rows, length, stride) == expected


def test_digests_are_added_to_what_is_there() -> None:
    memory = np.arange(16, dtype=np.uint8)
    found = torch.tensor([[5, -1]])
    RowDigester(CPU)((memory.ctypes.data, 1, 16, 16), found.data_ptr())
    low, high = by_numpy(memory.tobytes())
    assert found.numpy().view(np.uint64).tolist() == [[(low + 5) % 2**64, (high - 1) % 2**64]]


def test_an_instruction_set_changes_no_digest() -> None:
    program = (
        "import numpy as np; from tests.kernels.test_digest import digests;"
        "print(digests(np.arange(4000, dtype=np.uint8), 4, 999, 1000))"
    )
    environment = {**os.environ, "FARM_CPU_ISA": "portable"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(digests(np.arange(4000, dtype=np.uint8), 4, 999, 1000))


@pytest.mark.parametrize("rows, length, stride", [(0, 8, 8), (1, 0, 8), (2, 8, 4)])
def test_what_can_not_be_is_refused_with_what_was_given(rows: int, length: int, stride: int) -> None:
    with pytest.raises(KernelError, match=rf"rows is {rows} and row_bytes {length} .* row_stride {stride}"):
        RowDigester(CPU)((1, rows, length, stride), 1)
