"""`farm specs`: the specs that the farm brings along."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.output import console, print_json
from specs.errors import UsageError, nearest


def _names() -> list[str]:
    from specs.library import library_names

    return library_names()


def specs(
    name: Annotated[str | None, typer.Argument(help="Print this spec's YAML.", autocompletion=_names)] = None,
    as_json: Json = False,
) -> None:
    """List the specs that come with the farm, or print one to start your own from."""
    from specs.library import library_spec

    names = _names()
    if name is not None and name not in names:
        raise UsageError(f"no spec {name}: allowed: {', '.join(names)}{nearest(name, names)}")
    found = [library_spec(each) for each in ([name] if name else names)]
    if as_json:
        print_json("specs", {"specs": [asdict(spec) for spec in found]})
    elif name:
        typer.echo(found[0].text, nl=False)
    else:
        from rich.table import Table

        table = Table("name", "kind", "what it shows", box=None, pad_edge=False)
        for spec in found:
            table.add_row(spec.name, spec.kind, spec.description)
        console().print(table)
        typer.echo("\nfarm submit NAME runs one; farm specs NAME prints it, to start your own from.")
