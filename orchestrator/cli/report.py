"""`farm report`: a run as a file for others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.output import write_file
from orchestrator.cli.run_argument import RunArgument

if TYPE_CHECKING:
    from specs.result import RunRecord


class Format(StrEnum):
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"
    JUNIT = "junit"


def report(
    run: RunArgument,
    format: Annotated[Format, typer.Option("--format", help="md suits a GitHub step summary.")] = Format.MARKDOWN,
    output: Annotated[Path | None, typer.Option(help="The file to write. Default: standard output.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run as Markdown, HTML, JSON or JUnit XML."""
    from orchestrator.store import Store

    with Store.open() as store:
        record = store.get(run)
    text = _render(record, Format.JSON if as_json else format)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_file(output, text)


def _render(record: RunRecord, wanted: Format) -> str:
    match wanted:
        case Format.MARKDOWN:
            from orchestrator.report.markdown import render_markdown

            return render_markdown(record)
        case Format.HTML:
            from orchestrator.report.html import render_html

            return render_html(record)
        case Format.JUNIT:
            from orchestrator.report.junit import render_junit

            return render_junit(record)
        case Format.JSON:
            from orchestrator.cli.output import json_text
            from orchestrator.report.document import run_document

            return json_text("run", run_document(record))
