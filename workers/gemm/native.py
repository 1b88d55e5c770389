"""The farm's own kernels: libraries behind ``kernels/include/farm_kernels.h``, loaded through ctypes.

One path for CPU and CUDA: check the operands, fill the C struct, call. The library of a backend is built when it is
first asked for (see ``workers.build``).
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from workers.build import Backend, build
from workers.errors import KernelError
from workers.gemm.inputs import BLOCK, FP8
from workers.gemm.target import QUIET, Call, Conditions, GemmInputs, Launch

VARIANTS = {"streamk": 0, "streamk-ordered": 1, "persistent": 2, "invariant": 3}
OUT_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}

_ABI_VERSION = 1
_OK = 0


class FarmGemm(ctypes.Structure):
    """``farm_gemm`` of farm_kernels.h, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("variant", "out_dtype", "m", "n", "k")),
        *((name, ctypes.c_void_p) for name in ("a", "b", "scale_a", "scale_b", "d")),
        *((name, ctypes.c_int64) for name in ("lda", "ldb", "ld_scale_a", "ld_scale_b", "ldd")),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("sm_count", "threads", "pause_us")),
        ("pause_seed", ctypes.c_uint32),
    )


class NativeLibrary:
    """A loaded kernel library. Raises KernelError where it can't be loaded or has another ABI."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(f"{path} can't be loaded: {error}; remove it to have it built again") from error
        self.path = path
        self._library.farm_last_error.restype = ctypes.c_char_p
        self._library.farm_status_message.restype = ctypes.c_char_p
        self._library.farm_build_info.restype = ctypes.c_char_p
        version = self._library.farm_abi_version()
        if version != _ABI_VERSION:
            raise KernelError(f"{path} has ABI version {version}; this program needs {_ABI_VERSION}")

    @property
    def build_info(self) -> dict[str, Any]:
        """What the library says about itself: backend, compiler, flags, and for the CPU the instruction set in use."""
        info: dict[str, Any] = json.loads(self._library.farm_build_info())
        return info

    def workspace_bytes(self, args: FarmGemm) -> int:
        """Bytes that ``run`` needs for this problem. Raises KernelError where the library refuses it."""
        size = ctypes.c_size_t()
        self._check(self._library.farm_gemm_workspace(ctypes.byref(args), ctypes.byref(size)))
        return size.value

    def run(self, args: FarmGemm) -> None:
        """Runs (CPU) or enqueues (CUDA). Raises KernelError."""
        self._check(self._library.farm_gemm_run(ctypes.byref(args)))

    def call(self, function: str, *arguments: Any) -> None:
        """Any other function of the library that returns a status. Raises KernelError."""
        self._check(getattr(self._library, function)(*arguments))

    def function(self, name: str, *types: Any) -> Callable[..., None]:
        """Such a function, told its arguments' ctypes once: for what is called so often that this counts."""
        called = ctypes.CFUNCTYPE(ctypes.c_int, *types)((name, self._library))

        def call(*arguments: Any) -> None:
            if status := called(*arguments):
                self._check(status)

        return call

    def _check(self, status: int) -> None:
        if status != _OK:
            kind, what = self._library.farm_status_message(status), self._library.farm_last_error()
            raise KernelError(f"{kind.decode()}: {what.decode()}")


@functools.cache
def load(backend: Backend) -> NativeLibrary:
    """The library of ``backend``, built if need be, loaded once per process. Raises BuildError, KernelError."""
    return NativeLibrary(build(backend).path)


def multiply(inputs: GemmInputs, out_dtype: torch.dtype, variant: str) -> torch.Tensor:
    """The product (m, n), with memory for it and for the workspace allocated here: what ``workers.gemm.op`` calls.

    Raises ValueError for operands that don't fit, KernelError and BuildError where the library fails.
    """
    number = VARIANTS[NativeGemm(variant).name]
    check_inputs(inputs, out_dtype)
    out = torch.empty((inputs.m, inputs.n), dtype=out_dtype, device=inputs.mat_a.device)
    _BoundGemm(load(_backend(out.device)), inputs, out, number)(QUIET)
    return out


class NativeGemm:
    """GemmTarget over one variant of the farm's own kernels, on the CPU or on a Hopper GPU."""

    takes_sm_count = True

    def __init__(self, variant: str) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; allowed are {', '.join(VARIANTS)}")
        self.name = variant

    def unsupported(self, m: int, n: int, k: int, out_dtype: torch.dtype, device: torch.device) -> str | None:
        """Why (m, n, k) can't be run on ``device``, in one sentence, or None. Raises BuildError."""
        if out_dtype not in OUT_DTYPES:
            return f"out_dtype is {out_dtype}; allowed are {_names(OUT_DTYPES)}"
        if device.type not in ("cpu", "cuda"):
            return f"device is {device}; the farm's kernels run on cpu and cuda"
        if device.type == "cuda":
            if not torch.cuda.is_available():
                return f"device is {device}, and torch {torch.__version__} sees no CUDA GPU"
            capability = torch.cuda.get_device_capability(device)
            if capability != (9, 0):
                return f"{device} has compute capability {capability}; the farm's kernels are for Hopper, (9, 0)"
        args = FarmGemm(struct_size=ctypes.sizeof(FarmGemm), m=m, n=n, k=k)
        args.variant, args.out_dtype = VARIANTS[self.name], OUT_DTYPES[out_dtype]
        try:
            with _current(device):
                load(_backend(device)).workspace_bytes(args)
        except KernelError as error:
            return str(error)
        return None

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        """Checks the operands and allocates the workspace; each launch then runs on torch's current stream.

        Raises ValueError, BuildError, KernelError.
        """
        check_inputs(inputs, out.dtype)
        _check_out(inputs, out)
        return _BoundGemm(load(_backend(out.device)), inputs, out, VARIANTS[self.name])

    def call(self, inputs: GemmInputs, out_dtype: torch.dtype) -> Call:
        return lambda: multiply(inputs, out_dtype, self.name)


class _BoundGemm:
    """A launch. It holds the tensors whose bare addresses the C struct has."""

    def __init__(self, library: NativeLibrary, inputs: GemmInputs, out: torch.Tensor, variant: int) -> None:
        self._library, self._inputs, self._out = library, inputs, out
        self._args = _arguments(inputs, out, variant)
        # What is needed depends on the worker count, which stress may change: one allocation for each count seen.
        self._workspaces: dict[int, torch.Tensor] = {}
        self._workspace(QUIET.sm_count)

    def __call__(self, conditions: Conditions) -> None:
        args, space = self._args, self._workspace(conditions.sm_count)
        if conditions.poison:
            space.fill_(0xFF)
        args.workspace, args.workspace_bytes = space.data_ptr(), space.numel()
        args.sm_count, args.threads = conditions.sm_count, conditions.threads
        args.pause_us, args.pause_seed = conditions.pause_us, conditions.pause_seed
        with _current(self._out.device):
            if self._out.device.type == "cuda":
                args.stream = current_stream()
            self._library.run(args)

    def _workspace(self, sm_count: int) -> torch.Tensor:
        if sm_count not in self._workspaces:
            self._args.sm_count = sm_count
            with _current(self._out.device):
                size = self._library.workspace_bytes(self._args)
            self._workspaces[sm_count] = torch.empty(size, dtype=torch.uint8, device=self._out.device)
        return self._workspaces[sm_count]


def check_inputs(inputs: GemmInputs, out_dtype: torch.dtype) -> None:
    """Raises ValueError with the value given, what is allowed and what to do, for the first thing that does not fit.

    Leading dimensions may be larger than needed.
    """
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"out_dtype is {out_dtype}; allowed are {_names(OUT_DTYPES)}")
    operands = vars(inputs)
    for name, tensor in operands.items():
        wanted = FP8 if name.startswith("mat") else torch.float32
        if tensor.dtype != wanted:
            raise ValueError(f"{name} is {tensor.dtype}; it must be {wanted}")
        if tensor.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must have two dimensions")
        if tensor.device != inputs.mat_a.device or tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name} is on {tensor.device}, mat_a on {inputs.mat_a.device}; all must be on one cpu or cuda device"
            )
    m, n, k = inputs.m, inputs.n, inputs.k
    if m < 1 or n < 1 or n % 8 or k < 1 or k % BLOCK:
        raise ValueError(
            f"(m, n, k) is ({m}, {n}, {k}); m must be at least 1, n a positive multiple of 8, k of {BLOCK}: "
            "pad the operands with zeros"
        )
    blocks = k // BLOCK
    shapes = {"mat_b": (k, n), "scales_a": (m, blocks), "scales_b": (blocks, -(-n // BLOCK))}
    for name, shape in shapes.items():
        if tuple(operands[name].shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(operands[name].shape)}; for mat_a {(m, k)} and n = {n} it must be {shape}"
            )
    _check_layout(inputs.mat_a, 1, "mat_a", "row-major", "mat_a.contiguous()")
    _check_layout(inputs.mat_b, 0, "mat_b", "column-major", "mat_b.t().contiguous().t()")
    _check_aligned(inputs.mat_a, 1, "mat_a", "mat_a.clone(memory_format=torch.contiguous_format)")
    _check_aligned(inputs.mat_b, 0, "mat_b", "mat_b.t().clone(memory_format=torch.contiguous_format).t()")
    _check_layout(inputs.scales_a, 0, "scales_a", "column-major", "scales_a.t().contiguous().t()")
    _check_layout(inputs.scales_b, 0, "scales_b", "column-major", "scales_b.t().contiguous().t()")


def _check_out(inputs: GemmInputs, out: torch.Tensor) -> None:
    if tuple(out.shape) != (inputs.m, inputs.n) or out.device != inputs.mat_a.device:
        raise ValueError(
            f"out has shape {tuple(out.shape)} on {out.device}; "
            f"it must be {(inputs.m, inputs.n)} on {inputs.mat_a.device}"
        )
    _check_layout(out, 1, "out", "row-major", "out.contiguous()")
    _check_aligned(out, 1, "out", "out.contiguous()")


def _check_aligned(tensor: torch.Tensor, unit: int, name: str, remedy: str) -> None:
    """On a GPU rows (``unit`` 1) or columns (0) must start at multiples of 16 bytes, for the bulk tensor copies."""
    step = leading(tensor, unit) * tensor.itemsize
    if tensor.device.type == "cuda" and (tensor.data_ptr() % 16 or step % 16):
        raise ValueError(
            f"{name} begins {tensor.data_ptr() % 16} bytes behind a multiple of 16, and its stride({1 - unit}) is "
            f"{step} bytes; on a GPU both must be multiples of 16 bytes: use {remedy}"
        )


def _check_layout(tensor: torch.Tensor, unit: int, name: str, layout: str, remedy: str) -> None:
    length = tensor.shape[unit]
    if (length > 1 and tensor.stride(unit) != 1) or leading(tensor, unit) < length:
        raise ValueError(
            f"{name} {tuple(tensor.shape)} has strides {tensor.stride()}; it must be {layout}, stride({unit}) == 1 and "
            f"stride({1 - unit}) >= {length}: use {remedy}"
        )


def leading(tensor: torch.Tensor, unit: int) -> int:
    """The distance between rows (``unit`` 1) or columns (0). Strides of dimensions of size 1 say nothing."""
    other = 1 - unit
    return tensor.stride(other) if tensor.shape[other] > 1 else max(tensor.shape[unit], 1)


def _arguments(inputs: GemmInputs, out: torch.Tensor, variant: int) -> FarmGemm:
    args = FarmGemm(struct_size=ctypes.sizeof(FarmGemm), variant=variant, out_dtype=OUT_DTYPES[out.dtype])
    args.m, args.n, args.k = inputs.m, inputs.n, inputs.k
    args.a, args.b, args.d = inputs.mat_a.data_ptr(), inputs.mat_b.data_ptr(), out.data_ptr()
    args.scale_a, args.scale_b = inputs.scales_a.data_ptr(), inputs.scales_b.data_ptr()
    args.lda, args.ldb, args.ldd = leading(inputs.mat_a, 1), leading(inputs.mat_b, 0), leading(out, 1)
    args.ld_scale_a, args.ld_scale_b = leading(inputs.scales_a, 0), leading(inputs.scales_b, 0)
    return args


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the one that the library asks for its size and launches on."""
    if device.type == "cpu" or device.index in (None, torch.cuda.current_device()):
        return nullcontext()
    return torch.cuda.device(device)


def current_stream() -> int:
    """torch's, of its current device. Told which that is, torch finds the stream in a tenth of the time."""
    return int(torch.cuda.current_stream(torch.cuda.current_device()).cuda_stream)


def _backend(device: torch.device) -> Backend:
    return "cuda" if device.type == "cuda" else "cpu"


def _names(dtypes: dict[torch.dtype, int]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
