"""What can go wrong on a worker before a kernel has run.

InfrastructureError
├── BuildError   the kernels could not be compiled
└── KernelError  a built library could not be loaded, or it refused or failed a call
"""

from __future__ import annotations

from specs.errors import InfrastructureError


class BuildError(InfrastructureError):
    """The compiler or a tool it needs failed or is missing; the message has its last lines and how to repeat it."""


class KernelError(InfrastructureError):
    """A kernel library does not fit this program, or returned a status other than ok."""
