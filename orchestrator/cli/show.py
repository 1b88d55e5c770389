"""`farm show`: one run, as `farm submit` printed it."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.run_argument import RunArgument
from specs.errors import ExitCode


def show(
    run: RunArgument,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Return the run's own exit code; 3 while it is running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run: verdicts, times, reasons, where it ran."""
    from orchestrator.cli.output import console, print_json
    from orchestrator.report.document import run_document
    from orchestrator.report.table import render_table
    from orchestrator.store import Store

    with Store.open() as store:
        record = store.get(run)
    if as_json:
        print_json("run", run_document(record))
    else:
        render_table(record, console())
    if exit_status:
        raise typer.Exit(ExitCode.INCONCLUSIVE if record.exit_code is None else record.exit_code)
