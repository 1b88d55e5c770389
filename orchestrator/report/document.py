"""A run as JSON: its summary, then all that is known of it."""

from __future__ import annotations

from typing import Any

from orchestrator.summary import summarise
from specs.result import RunRecord


def run_document(record: RunRecord) -> dict[str, Any]:
    """What `print_json` and `json_text` take."""
    summary = summarise(record.judgement) if record.judgement is not None else None
    return {"summary": summary, **record.model_dump(mode="json")}
