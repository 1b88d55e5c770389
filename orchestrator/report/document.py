"""A run as JSON: its summary, then all that is known of it."""

from __future__ import annotations

from typing import Any

from orchestrator.summary import ModelSummary, Summary, summarise, summarise_modes
from specs.model_job import ModelJob
from specs.result import RunRecord


def run_document(record: RunRecord) -> dict[str, Any]:
    """What `print_json` and `json_text` take."""
    judgement = record.judgement
    summary: Summary | ModelSummary | None = None
    if judgement is not None:
        summary = summarise_modes(judgement) if isinstance(record.job, ModelJob) else summarise(judgement)
    return {"summary": summary, **record.model_dump(mode="json")}
