"""A completion as a sample: the bytes that are digested and kept as a witness.

The bytes are, little-endian and without padding:

    number of tokens n      uint32
    n token ids             uint32 each
    n logprobs              float32 each, their bits as they were computed
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def encode(tokens: Sequence[int], logprobs: NDArray[np.float32]) -> bytes:
    """Raises ValueError where there is not one float32 logprob for each token."""
    if logprobs.dtype != np.float32 or logprobs.shape != (len(tokens),):
        raise ValueError(
            f"logprobs are {logprobs.dtype} of shape {logprobs.shape}; {len(tokens)} tokens need as many float32"
        )
    ids = np.asarray(tokens, dtype="<u4")
    return struct.pack("<I", len(tokens)) + ids.tobytes() + logprobs.astype("<f4", copy=False).tobytes()


def decode(sample: bytes) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Token ids and logprobs. Raises ValueError for bytes that ``encode`` did not make."""
    count = struct.unpack_from("<I", sample)[0] if len(sample) >= 4 else -1
    if len(sample) != 4 + 8 * count:
        raise ValueError(f"{len(sample)} bytes are not a sample of {count} tokens, which has 4 + 8 for each token")
    ids = np.frombuffer(sample, "<u4", count, 4).astype(np.uint32)
    return ids, np.frombuffer(sample, "<f4", count, 4 + 4 * count).astype(np.float32)
