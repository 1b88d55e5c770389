"""What a group of samples is about, beside the implementation: a GEMM's shape, or a prompt under a mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer

from specs.job import Dtype, Mode, Part
from specs.shapes import Shape


@dataclass(frozen=True, order=True)
class Prompt:
    """All requests of a mode that have to be answered alike."""

    mode: Mode
    name: str

    def __str__(self) -> str:
        return f"{self.mode}: {self.name}"


Subject = Shape | Prompt


def conditions(subject: Subject) -> Shape | Mode:
    """What a control has to share with what is held against it: the shape, or the mode."""
    return subject if isinstance(subject, Shape) else subject.mode


class Concerning(Part):
    """A record about one implementation under test and one subject.

    In JSON the subject is called by its type, `shape` or `prompt`.
    """

    variant: str
    """Name of a kernel job's variant or a model job's target."""
    subject: Subject = Field(validation_alias=AliasChoices("subject", "shape", "prompt"))
    dtype: Dtype

    @model_serializer(mode="wrap")
    def _write(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        name = "shape" if isinstance(self.subject, Shape) else "prompt"
        return {name if key == "subject" else key: value for key, value in serialize(self).items()}
