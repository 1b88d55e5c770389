"""`farm schema`: the JSON Schema of specs."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON Schema of specs, with which editors complete and check them."""
    from specs.schema import schema_text

    typer.echo(schema_text(), nl=False)
