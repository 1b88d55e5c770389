"""Entry point: registers the subcommands and turns the farm's errors into a message and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.bench import bench
from orchestrator.cli.compare import compare
from orchestrator.cli.doctor import doctor
from orchestrator.cli.list import list_runs
from orchestrator.cli.metrics import metrics
from orchestrator.cli.plan import plan
from orchestrator.cli.report import report
from orchestrator.cli.repro import repro
from orchestrator.cli.schema import schema
from orchestrator.cli.show import show
from orchestrator.cli.specs import specs
from orchestrator.cli.submit import resume, submit
from orchestrator.cli.validate import validate
from specs.errors import ExitCode, FarmError

app = typer.Typer(
    name="farm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prove whether GPU inference is deterministic: same input, same bits, whatever the batch, GPU or moment.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"farm {version('determinism-farm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of every command. `main` looks for --debug itself, since it acts after the command has failed."""


app.command("submit")(submit)
app.command("resume")(resume)
app.command("plan")(plan)
app.command("doctor")(doctor)
app.command("list")(list_runs)
app.command("show")(show)
app.command("compare")(compare)
app.command("report")(report)
app.command("repro")(repro)
app.command("validate")(validate)
app.command("specs")(specs)
app.command("schema")(schema)
app.command("metrics")(metrics)
app.command("bench")(bench)


def main() -> None:
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except FarmError as error:
        if debug:
            raise
        typer.echo(f"farm: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
