"""Named sets of GEMM shapes. As everywhere in specs, a shape is [m, k, n]: A is (m, k), B is (k, n)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Shape:
    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


FIXED_SETS: dict[str, tuple[Shape, ...]] = {
    # sgl-project/sglang's test of the change that removed stream-K from the block-scaled FP8 GEMM on Hopper
    "seed-pr": (Shape(1024, 4096, 1024), Shape(2048, 2048, 2048)),
    # k > 3n and at least four splits a tile on 132 SMs: where an unordered reduction was seen to change its order
    "sensitive": (Shape(128, 7168, 1536), Shape(256, 16384, 512), Shape(64, 7168, 2048)),
}

# (k, n) of DeepSeek-V3's block-FP8 weights, unsharded and as one of 8 tensor-parallel ranks holds them
WEIGHT_SETS: dict[str, tuple[tuple[int, int], ...]] = {
    "deepseek-v3-tp1": (
        (7168, 2112),  # q_a_proj and kv_a_proj_with_mqa, fused
        (1536, 24576),  # q_b_proj
        (512, 32768),  # kv_b_proj
        (16384, 7168),  # o_proj
        (7168, 36864),  # dense gate_up_proj
        (18432, 7168),  # dense down_proj
        (7168, 4096),  # shared expert gate_up_proj
        (2048, 7168),  # shared expert down_proj
    ),
    "deepseek-v3-tp8": (
        (7168, 2112),
        (1536, 3072),
        (512, 4096),
        (2048, 7168),
        (7168, 4608),
        (2304, 7168),
        (7168, 512),
        (256, 7168),
    ),
    # the 11 weights of docs/results' speed table: DeepSeek-V3's and R1's, whole and sharded by 4 to 16
    "h200-table": (
        (7168, 2112),
        (7168, 1536),
        (7168, 576),
        (1536, 3072),
        (1536, 24576),
        (2048, 7168),
        (2304, 7168),
        (7168, 4096),
        (7168, 4608),
        (16384, 7168),
        (18432, 7168),
    ),
}


def with_tokens(weights: str, tokens: tuple[int, ...]) -> tuple[Shape, ...]:
    """The shapes of one of ``WEIGHT_SETS`` at each of these numbers of tokens."""
    return tuple(Shape(m, k, n) for k, n in WEIGHT_SETS[weights] for m in tokens)
