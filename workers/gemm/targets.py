"""From a variant's name in a spec to what runs it."""

from __future__ import annotations

from specs.errors import UsageError
from specs.job import OWN_VARIANTS
from workers.gemm.target import GemmTarget


def find_target(name: str) -> GemmTarget:
    """The implementation of one variant. Raises UsageError where a ``python:`` name can't be imported."""
    if name in OWN_VARIANTS:
        from workers.gemm.native import NativeGemm

        return NativeGemm(name)
    if name.startswith("python:"):
        from workers.gemm.peers import PythonFunction

        return PythonFunction(name)
    from workers.gemm.peers import PEERS

    if name not in PEERS:
        raise UsageError(f"variant {name!r} is unknown; allowed: {', '.join([*OWN_VARIANTS, *PEERS])}")
    return PEERS[name]()
