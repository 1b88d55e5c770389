"""Other people's implementations of the same product, behind the same interface as our own.

Each says what it can't take. Packages are imported only when a peer is asked, so that a worker without them still runs
everything else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from specs.errors import UsageError
from workers.gemm.inputs import BLOCK
from workers.gemm.target import Call, Conditions, GemmInputs, GemmTarget, Launch

HOPPER = (9, 0)


class SglKernel:
    """`sgl_kernel.fp8_blockwise_scaled_mm`, from package sglang-kernel (once sgl-kernel)."""

    name = "sgl-kernel"
    takes_sm_count = False

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        missing = _needs_hopper(device) or _needs_package("sgl_kernel", "sglang-kernel")
        if missing is not None:
            return missing
        if n % BLOCK:
            return f"n = {n}: sgl-kernel takes multiples of {BLOCK}"
        return _needs_dtype(self.name, out_dtype, (torch.bfloat16, torch.float16))

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        return _into(out, self.call(inputs, out.dtype))

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        importlib.import_module("sgl_kernel")
        product = torch.ops.sgl_kernel.fp8_blockwise_scaled_mm.default
        operands = (inputs.mat_a, inputs.mat_b, inputs.scales_a, inputs.scales_b)
        return lambda: product(*operands, out_dtype)


class DeepGemm:
    """`deep_gemm.fp8_gemm_nt`, from package sgl-deep-gemm."""

    name = "deep-gemm"
    takes_sm_count = False

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        missing = _needs_hopper(device) or _needs_package("deep_gemm", "sgl-deep-gemm")
        return missing or _needs_dtype(self.name, out_dtype, (torch.bfloat16,))

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        product = self._product(inputs)
        return lambda _conditions: product(out)

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        product = self._product(inputs)

        def call() -> torch.Tensor:
            out = torch.empty(inputs.m, inputs.n, dtype=out_dtype, device=inputs.mat_a.device)
            product(out)
            return out

        return call

    def _product(self, inputs: GemmInputs) -> Callable[[torch.Tensor], None]:
        deep_gemm = importlib.import_module("deep_gemm")
        deep_gemm.set_pdl(True)  # programmatic dependent launch, which our kernels use too
        activations = (inputs.mat_a, deep_gemm.get_mn_major_tma_aligned_tensor(inputs.scales_a))
        weights = (inputs.mat_b.t(), inputs.scales_b.t().contiguous())

        def product(out: torch.Tensor) -> None:
            deep_gemm.fp8_gemm_nt(activations, weights, out)

        return product


class TorchScaledMM:
    """`torch.nn.functional.scaled_mm` with 1x128 and 128x128 blocks, which is cuBLASLt."""

    name = "torch-scaled-mm"
    takes_sm_count = False

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        missing = _needs_hopper(device)
        if missing is not None:
            return missing
        if not hasattr(torch.nn.functional, "scaled_mm"):
            return f"torch {torch.__version__} has no scaled_mm with block scales: install torch 2.10 or newer"
        return _needs_dtype(self.name, out_dtype, (torch.bfloat16,))

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        return _into(out, self.call(inputs, out.dtype))

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        functional: Any = torch.nn.functional
        kinds = functional.ScalingType
        mat_a, scales_a = _rows_in_fours(inputs)
        blocks = inputs.k // BLOCK
        scales_b = torch.nn.functional.pad(inputs.scales_b.t(), (0, -blocks % 4)).contiguous().t()

        def call() -> torch.Tensor:
            whole: torch.Tensor = functional.scaled_mm(
                mat_a,
                inputs.mat_b,
                scales_a,
                kinds.BlockWise1x128,
                scales_b,
                kinds.BlockWise128x128,
                output_dtype=out_dtype,
            )
            return whole[: inputs.m]

        return call


class Triton:
    """A Triton kernel in the way of DeepSeek's, whose tiles depend on m: ``workers.gemm.triton_gemm``."""

    name = "triton"
    takes_sm_count = False

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        missing = _needs_hopper(device) or _needs_package("triton", "triton")
        return missing or _needs_dtype(self.name, out_dtype, (torch.bfloat16, torch.float16, torch.float32))

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        multiply_into = importlib.import_module("workers.gemm.triton_gemm").multiply_into
        return lambda _conditions: multiply_into(inputs, out)

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        multiply_into = importlib.import_module("workers.gemm.triton_gemm").multiply_into

        def call() -> torch.Tensor:
            out = torch.empty(inputs.m, inputs.n, dtype=out_dtype, device=inputs.mat_a.device)
            multiply_into(inputs, out)
            return out

        return call


class PythonFunction:
    """`python:package.module:function`, called as sgl-kernel's op: (mat_a, mat_b, scales_a, scales_b, out_dtype)."""

    takes_sm_count = False

    def __init__(self, name: str) -> None:
        self.name = name
        _, module, function = name.split(":")
        try:
            self._function = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"variant {name!r} can't be imported: {error}; the module has to be installed on every worker"
            ) from error

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        return None

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        return _into(out, self.call(inputs, out.dtype))

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        operands = (inputs.mat_a, inputs.mat_b, inputs.scales_a, inputs.scales_b)
        return lambda: self._function(*operands, out_dtype)


PEERS: dict[str, Callable[[], GemmTarget]] = {peer.name: peer for peer in (SglKernel, DeepGemm, TorchScaledMM, Triton)}


def _into(out: torch.Tensor, product: Call) -> Launch:
    def launch(_conditions: Conditions) -> None:
        out.copy_(product())

    return launch


def _rows_in_fours(inputs: GemmInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """A and its scales as cuBLASLt takes them: a multiple of four rows, scales without gaps."""
    if inputs.m % 4 == 0:
        return inputs.mat_a, inputs.scales_a.t().contiguous().t()
    rows = -(-inputs.m // 4) * 4
    mat_a = torch.zeros(rows, inputs.k, dtype=torch.uint8, device=inputs.mat_a.device).view(inputs.mat_a.dtype)
    mat_a[: inputs.m] = inputs.mat_a
    scales_a = torch.ones(inputs.k // BLOCK, rows, device=inputs.mat_a.device)
    scales_a[:, : inputs.m] = inputs.scales_a.t()
    return mat_a, scales_a.t()


def _needs_hopper(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"it needs a Hopper GPU, and the device is {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability != HOPPER:
        return f"it needs compute capability 9.0, and {torch.cuda.get_device_name(device)} has {capability}"
    return None


def _needs_package(module: str, package: str) -> str | None:
    return None if find_spec(module) is not None else f"package {package} is not installed: pip install {package}"


def _needs_dtype(name: str, out_dtype: torch.dtype, allowed: tuple[torch.dtype, ...]) -> str | None:
    if out_dtype in allowed:
        return None
    return f"{name} writes {' or '.join(str(dtype) for dtype in allowed)}, and {out_dtype} is wanted"
