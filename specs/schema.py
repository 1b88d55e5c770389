"""The JSON Schema of specs, for editors. `schema.json` beside this file is what `farm schema` prints."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from specs.kinds import KINDS


@cache
def job_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of every kind of job, told apart by `kind`."""
    refs, definitions = models_json_schema([(model, "validation") for model in KINDS.values()])
    by_kind = {kind: refs[model, "validation"] for kind, model in KINDS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "farm spec",
        "description": "What must repeat bit for bit, and under which conditions the farm tries to break it.",
        "type": "object",
        "required": ["version", "kind"],
        "discriminator": {"propertyName": "kind", "mapping": {kind: ref["$ref"] for kind, ref in by_kind.items()}},
        "oneOf": list(by_kind.values()),
        "$defs": definitions["$defs"],
    }


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of one kind of job, with the `$defs` it refers to."""
    schema = job_schema()
    return {"$ref": schema["discriminator"]["mapping"][kind], "$defs": schema["$defs"]}


def schema_text() -> str:
    """What `schema.json` holds."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
