"""`farm validate`: is this spec one that the farm can run?"""

from __future__ import annotations

from dataclasses import asdict

import typer

from orchestrator.cli.options import Json, Overrides, SpecArgument
from orchestrator.cli.output import print_json
from specs.errors import SpecError


def validate(spec: SpecArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a spec and say everything that is wrong with it."""
    from specs.load import load_job

    try:
        job = load_job(spec, overrides or [])
    except SpecError as error:
        if not as_json:
            raise
        print_json("validation", {"valid": False, "job": None, "problems": [asdict(it) for it in error.problems]})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json("validation", {"valid": True, "job": job.model_dump(mode="json"), "problems": []})
    else:
        typer.echo(f"{job.name} is valid: {job.summary()}")
