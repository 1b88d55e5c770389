"""Every kind of job. `KINDS` maps `kind` to its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from specs.job import JobBase
from specs.kernel_job import KernelJob, long_shape, long_variant
from specs.model_job import ModelJob

Job = Annotated[KernelJob | ModelJob, Field(discriminator="kind")]

KINDS: dict[str, type[JobBase]] = {"kernel": KernelJob, "model": ModelJob}

SHORT_FORMS: dict[str, Callable[[object], object]] = {"variants": long_variant, "shapes": long_shape}
"""For each list whose entries have a short form: what makes an entry long, if it is short."""
