"""The residual, norm and quantisation that are one kernel on a GPU, against the three; the embedding."""

from __future__ import annotations

import itertools

import pytest
import torch

from workers.model.fixed_ops import FixedOps
from workers.model.ops import Ops

ROWS = 65


@pytest.fixture(scope="module")
def triton() -> Ops:
    from workers.model.triton_ops import TritonOps

    return TritonOps()


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [512, 1536, 7168])
def test_to_the_bit(triton: Ops, size: int, dtype: torch.dtype) -> None:
    beside, other = random(ROWS, size + 64, seed=0, dtype=dtype)[:, :size], random(ROWS, size, seed=1, dtype=dtype)
    weight = random(size, seed=2, dtype=dtype)
    cases = itertools.product((beside, beside.contiguous()), (None, other), (True, False), (ROWS, 1))
    for x, added, plain, rows in cases:
        wanted_total = (x if added is None else x + added)[:rows]
        wanted = triton.rms_norm(wanted_total, weight, 1e-6)
        wanted_codes, wanted_scales = triton.quantise(wanted)
        more = None if added is None else added[:rows]
        total, normed, codes, scales = triton.rms_norm_quantise(x[:rows], weight, 1e-6, added=more, plain=plain)
        assert torch.equal(total, wanted_total)
        assert torch.equal(normed, wanted) if normed is not None else not plain
        assert torch.equal(codes.view(torch.uint8), wanted_codes.view(torch.uint8))
        assert torch.equal(scales, wanted_scales) and scales.stride(0) == 1
        index = torch.tensor([rows - 1, 0, rows // 2], device="cuda")
        if more is not None:
            total, normed = triton.add_rms_norm(x[:rows].contiguous(), more, index, weight, 1e-6)
            assert torch.equal(total, wanted_total[index]) and torch.equal(normed, wanted[index])


def test_embedding_of_a_part_of_the_vocabulary(triton: Ops) -> None:
    tokens, table = torch.randint(0, 300, (ROWS,), device="cuda"), random(100, 7168, seed=0, dtype=torch.bfloat16)
    for first in (0, 100, 200):
        assert torch.equal(triton.embed(tokens, table, first), FixedOps().embed(tokens, table, first))
