"""Looking at results on a GPU without copying them off it: ``kernels/include/farm_observe.h`` through ctypes."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_void_p

import torch

from workers.gemm.native import load


class RowDigester:
    """Digests of rows of memory: on the CPU at once, on a GPU on torch's current stream, captured in a graph or not."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._library = load("cuda" if self._on_device else "cpu")

    def __call__(self, address: int, rows: int, row_bytes: int, row_stride: int, digests: int) -> None:
        """Add a digest of each of ``rows`` ranges, ``row_stride`` bytes apart, to 16 bytes each at ``digests``.

        Both addresses are of the device. Raises KernelError.
        """
        self._library.call(
            "farm_digest_rows",
            c_void_p(address),
            c_int64(rows),
            c_int64(row_bytes),
            c_int64(row_stride),
            c_void_p(digests),
            _stream() if self._on_device else None,
        )


class DeviceObserver:
    """Everything here is enqueued on torch's current stream and may be captured in a CUDA graph. Raises KernelError."""

    def __init__(self) -> None:
        self._library = load("cuda")
        self._digest_rows = RowDigester(torch.device("cuda"))

    def digest_rows(self, out: torch.Tensor, digests: torch.Tensor) -> None:
        """Add a digest of each row of ``out`` (m, n), contiguous, to ``digests`` (m, 2) int64, zeroed beforehand."""
        length = out.shape[1] * out.element_size()
        self._digest_rows(out.data_ptr(), out.shape[0], length, length, digests.data_ptr())

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
    return c_void_p(torch.cuda.current_stream().cuda_stream)
