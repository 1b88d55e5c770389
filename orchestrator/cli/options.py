"""Arguments and options that several commands take, so that they read the same in each."""

from __future__ import annotations

from typing import Annotated

import typer

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A YAML file, - for standard input, or a name that `farm specs` lists.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Replace a value of the spec: trials=10, shapes[0]=[1,128,8]. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Address = Annotated[
    str | None, typer.Option(help="Run on the Ray cluster at this address instead of starting one on this machine.")
]
