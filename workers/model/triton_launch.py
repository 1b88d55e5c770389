"""Programmatic dependent launch: kernels that are launched, with ``launch_pdl``, before the one before them has ended.

Each waits by itself before it touches what others write, and all kernels of a pass do, so that all before it have ended
too. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import triton
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def in_turn() -> None:
    """Wait for the kernel before, and let the next one be launched."""
    gdc_wait()
    gdc_launch_dependents()
