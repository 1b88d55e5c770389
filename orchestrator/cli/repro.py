"""`farm repro`: the first diverging operation of a group, to be run again by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.run_argument import RunArgument


def repro(
    run: RunArgument,
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="A group as `farm show` names it, or words that only its name has.")
    ],
    output: Annotated[Path, typer.Option(help="The folder to write.", file_okay=False, show_default=True)] = Path(
        "farm-repro"
    ),
    as_json: Json = False,
) -> None:
    """Write a folder that shows a flip again with one operation: its inputs, both outputs, a script to run."""
    from orchestrator.cli.output import print_json
    from orchestrator.report.parting import divergence_words
    from orchestrator.report.words import group_words
    from orchestrator.repro import FILES, write
    from orchestrator.store import Store

    with Store.open() as store:
        record = store.get(run)
    verdict = write(record, group, output)
    assert verdict.divergence is not None
    if as_json:
        files = [str(output / name) for name in FILES]
        print_json(
            "repro", {"run": record.id, "files": files, "divergence": verdict.divergence.model_dump(mode="json")}
        )
        return
    typer.echo(f"{group_words(verdict)} parted {divergence_words(verdict.divergence)}")
    typer.echo(f"show it again: python {output / 'repro.py'}")
