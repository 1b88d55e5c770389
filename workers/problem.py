"""Operands of one shape, what they should give, and memory for what they do give."""

from __future__ import annotations

from functools import cached_property

import torch

from specs.job import Dtype
from specs.shapes import Shape
from specs.unit import pool_rows
from workers.gemm.inputs import make_inputs
from workers.gemm.reference import Sensitivity, reference_fp64, reorder_sensitivity

TORCH_DTYPES = {Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16, Dtype.FP32: torch.float32}


class Problem:
    """``inputs`` has the shape's rows; ``pool`` those that batch_invariance draws from, ``inputs`` among them."""

    def __init__(self, shape: Shape, seed: int, device: torch.device) -> None:
        self.key = (shape, seed)
        self.pool = make_inputs(pool_rows(shape), shape.n, shape.k, seed=seed, device=device)
        self.inputs = self.pool.rows(0, shape.m)
        self._sensitivity: dict[Dtype, Sensitivity] = {}

    @cached_property
    def reference(self) -> torch.Tensor:
        return reference_fp64(self.inputs)

    def sensitivity(self, dtype: Dtype) -> Sensitivity:
        """Whether these inputs could show another order of K at all."""
        if dtype not in self._sensitivity:
            self._sensitivity[dtype] = reorder_sensitivity(self.inputs, TORCH_DTYPES[dtype])
        return self._sensitivity[dtype]

    def output(self, dtype: Dtype, rows: int | None = None) -> torch.Tensor:
        """Memory for a product, filled with NaN, so that an element which nobody writes is not taken for a result."""
        shape, device = (rows or self.inputs.m, self.inputs.n), self.inputs.mat_a.device
        return torch.full(shape, torch.nan, dtype=TORCH_DTYPES[dtype], device=device)
