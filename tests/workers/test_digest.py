from __future__ import annotations

import torch
import xxhash

from workers.digest import digest, row_digests


def test_a_digest_is_over_the_bits() -> None:
    zero, minus, nan, other_nan = (
        torch.tensor([[bits]], dtype=torch.int16).view(torch.bfloat16) for bits in (0, -32768, 0x7FC0, 0x7FC1)
    )
    assert len({digest(value) for value in (zero, minus, nan, other_nan)}) == 4
    assert digest(nan) == digest(nan.clone())
    assert digest(zero) == xxhash.xxh3_128_digest(b"\0\0")


def test_rows_are_digested_one_by_one() -> None:
    out = torch.arange(12, dtype=torch.float32).view(3, 4)
    assert row_digests(out) == [digest(row) for row in out]
