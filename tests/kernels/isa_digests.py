"""Prints what the kernels give with the instruction set in FARM_CPU_ISA, as JSON: its name, and a digest per case."""

from __future__ import annotations

import hashlib
import json

from tests.kernels.cases import (
    as_scales,
    bits,
    codes_of_a,
    codes_of_b,
    floats_to_round,
    inputs_of,
    run,
    with_edges,
)
from workers.gemm.native import OUT_DTYPES, load
from workers.gemm.target import Conditions

SHAPES = [(1, 8, 128), (13, 136, 4096), (70, 264, 1152), (300, 72, 256)]


def digests() -> dict[str, str]:
    """Of every variant whose order is fixed: operands of all codes, all roundings, ragged tiles, edge cases."""
    problems = {"codes of A": codes_of_a(), "codes of B": codes_of_b(), "rounding": as_scales(floats_to_round())}
    for m, n, k in SHAPES:
        problems[f"{m}x{n}x{k}"] = inputs_of(m, n, k)
    problems["edges"] = with_edges(inputs_of(13, 136, 4096))
    found = {}
    for problem, inputs in problems.items():
        for variant in ("invariant", "persistent", "streamk-ordered"):
            for dtype in OUT_DTYPES:
                out = run(variant, inputs, dtype, Conditions(threads=2))
                found[f"{variant} {dtype} {problem}"] = hashlib.sha256(bits(out)).hexdigest()
    return found


if __name__ == "__main__":
    print(json.dumps({"isa": load("cpu").build_info["isa"], "digests": digests()}))
