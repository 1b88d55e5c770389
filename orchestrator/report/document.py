"""A run as JSON: the RunRecord as it is."""

from __future__ import annotations

import json
from typing import Any

from specs.result import RunRecord


def run_document(record: RunRecord) -> dict[str, Any]:
    """What `print_json` takes. JSON has no NaN: a relative error that is one becomes null."""
    document: dict[str, Any] = json.loads(record.model_dump_json())
    return document
