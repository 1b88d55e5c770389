"""`farm list`: the runs, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from specs.result import RunRecord


def list_runs(
    name: Annotated[str | None, typer.Option(help="Only runs of the spec with this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List the runs, newest first."""
    from orchestrator.cli.output import console, print_json
    from orchestrator.store import Store

    with Store.open() as store:
        runs = store.runs(limit=limit, name=name)
    if as_json:
        print_json("runs", {"runs": [run.model_dump(mode="json") for run in runs]})
    elif runs:
        console().print(_table(runs))
    else:
        of_name = f" of {name}" if name else ""
        typer.echo(f"There are no runs{of_name} yet: start one with farm submit SPEC.", err=True)


def _table(runs: list[RunRecord]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.report.words import counts

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("run", "name", "status", "begun", "units", "verdicts", "exit"):
        table.add_column(heading, justify="right" if heading in ("units", "exit") else "left", overflow="fold")
    for run in runs:
        table.add_row(
            Text(run.id, no_wrap=True),
            Text(run.name),
            Text(run.status),
            f"{run.created_at.astimezone():%Y-%m-%d %H:%M}",
            f"{run.units_done}/{run.units}",
            Text(", ".join(f"{count} {outcome}" for outcome, count in counts(run).items())),
            "" if run.exit_code is None else str(run.exit_code.value),
        )
    return table
