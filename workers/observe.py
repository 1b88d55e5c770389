"""Looking at results where they are: ``kernels/include/farm_observe.h`` through ctypes."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p

import torch

from workers.gemm.native import current_stream, load

MOST_TENSORS = 64
"""``FARM_MOST_TENSORS``"""


class FarmRows(ctypes.Structure):
    """``farm_rows``, field by field."""

    _fields_ = (
        ("data", c_void_p),
        *((name, c_int64) for name in ("rows", "row_bytes", "row_stride")),
        ("digests", c_void_p),
    )


Rows = tuple[int, int, int, int]
"""Address, how many, bytes of each, and bytes from one to the next. Whoever has it keeps the tensor alive."""


class RowDigester:
    """Digests of rows of memory: on the CPU at once, on a GPU on torch's current stream, captured in a graph or not."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        types = c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p
        self._digest_rows = load("cuda" if self._on_device else "cpu").function("farm_digest_rows", *types)

    def __call__(self, rows: Rows, digests: int) -> None:
        """Add a digest of each row to 16 bytes each at ``digests``. Addresses are of the device. Raises KernelError."""
        self._digest_rows(*rows, digests, current_stream() if self._on_device else None)


class WaitingTensors:
    """Tensors of a GPU that one launch will digest. Until ``launch`` they are kept alive, and must stay as they are."""

    def __init__(self) -> None:
        self._library = load("cuda")
        self._rows = (FarmRows * MOST_TENSORS)()
        self._tensors: list[torch.Tensor] = []

    def add(self, tensor: torch.Tensor, rows: Rows, digests: int) -> None:
        """Like ``RowDigester``, of rows that are in the memory of ``tensor``. Launches once there are many."""
        self._rows[len(self._tensors)] = FarmRows(*rows, digests)
        self._tensors.append(tensor)
        if len(self._tensors) == MOST_TENSORS:
            self.launch()

    def launch(self) -> None:
        """Digest what waits, on torch's current stream. Raises KernelError."""
        if self._tensors:
            self._library.call("farm_digest_tensors", self._rows, c_int32(len(self._tensors)), _stream())
            self._tensors.clear()


class DeviceObserver:
    """Everything here is enqueued on torch's current stream and may be captured in a CUDA graph. Raises KernelError."""

    def __init__(self) -> None:
        self._library = load("cuda")
        self._digest_rows = RowDigester(torch.device("cuda"))

    def digest_rows(self, out: torch.Tensor, digests: torch.Tensor) -> None:
        """Add a digest of each row of ``out`` (m, n), contiguous, to ``digests`` (m, 2) int64, zeroed beforehand."""
        length = out.shape[1] * out.element_size()
        self._digest_rows((out.data_ptr(), out.shape[0], length, length), digests.data_ptr())

    def digest(self, out: torch.Tensor, digest: torch.Tensor) -> None:
        """Add one digest of all of ``out``, contiguous, to ``digest`` (2,) int64, zeroed beforehand."""
        self.digest_rows(out.view(1, -1), digest)

    def keep_if_different(
        self,
        digest: torch.Tensor,
        reference: torch.Tensor,
        out: torch.Tensor,
        kept: torch.Tensor,
        taken: torch.Tensor,
        mark: int,
    ) -> None:
        """Copy ``out`` to ``kept`` if its digest is not the reference and no sample of another mark is there yet.

        ``taken`` (1,) int32, 0 at first, becomes ``mark``, which is at least 1.
        """
        self._library.call(
            "farm_keep_if_different",
            c_void_p(digest.data_ptr()),
            c_void_p(reference.data_ptr()),
            c_void_p(out.data_ptr()),
            c_int64(out.numel() * out.element_size()),
            c_void_p(kept.data_ptr()),
            c_void_p(taken.data_ptr()),
            c_int32(mark),
            _stream(),
        )

    def occupy(self, sms: int, microseconds: int) -> None:
        """Hold ``sms`` multiprocessors for a while."""
        self._library.call("farm_occupy", c_int32(sms), c_int32(microseconds), _stream())


def _stream() -> c_void_p:
    return c_void_p(current_stream())
