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
from workers.gemm.target import Conditions, GemmInputs, GemmTarget, Launch

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
        importlib.import_module("sgl_kernel")
        product = torch.ops.sgl_kernel.fp8_blockwise_scaled_mm.default
        operands = (inputs.mat_a, inputs.mat_b, inputs.scales_a, inputs.scales_b)
        return _into(out, lambda: product(*operands, out.dtype))


class DeepGemm:
    """`deep_gemm.fp8_gemm_nt`, from package sgl-deep-gemm."""

    name = "deep-gemm"
    takes_sm_count = False

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        missing = _needs_hopper(device) or _needs_package("deep_gemm", "sgl-deep-gemm")
        return missing or _needs_dtype(self.name, out_dtype, (torch.bfloat16,))

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        deep_gemm = importlib.import_module("deep_gemm")
        activations = (inputs.mat_a, deep_gemm.get_mn_major_tma_aligned_tensor(inputs.scales_a))
        weights = (inputs.mat_b.t(), inputs.scales_b.t().contiguous())

        def launch(_conditions: Conditions) -> None:
            deep_gemm.fp8_gemm_nt(activations, weights, out)

        return launch


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
        functional: Any = torch.nn.functional
        rows = -(-inputs.m // 4) * 4
        mat_a = torch.zeros(rows, inputs.k, dtype=torch.uint8, device=out.device).view(inputs.mat_a.dtype)
        mat_a[: inputs.m] = inputs.mat_a
        scales_a = torch.ones(inputs.k // BLOCK, rows, device=out.device)
        scales_a[:, : inputs.m] = inputs.scales_a.t()
        blocks = inputs.k // BLOCK
        scales_b = torch.nn.functional.pad(inputs.scales_b.t(), (0, -blocks % 4)).contiguous().t()
        kinds = functional.ScalingType

        def product() -> torch.Tensor:
            whole: torch.Tensor = functional.scaled_mm(
                mat_a,
                inputs.mat_b,
                scales_a.t(),
                kinds.BlockWise1x128,
                scales_b,
                kinds.BlockWise128x128,
                output_dtype=out.dtype,
            )
            return whole[: inputs.m]

        return _into(out, product)


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
        operands = (inputs.mat_a, inputs.mat_b, inputs.scales_a, inputs.scales_b)
        return _into(out, lambda: self._function(*operands, out.dtype))


PEERS: dict[str, Callable[[], GemmTarget]] = {peer.name: peer for peer in (SglKernel, DeepGemm, TorchScaledMM)}


def _into(out: torch.Tensor, product: Callable[[], torch.Tensor]) -> Launch:
    def launch(_conditions: Conditions) -> None:
        out.copy_(product())

    return launch


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
