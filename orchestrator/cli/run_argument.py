"""The RUN argument of `show`, `compare`, `report` and `resume`, and how shells complete it."""

from __future__ import annotations

from typing import Annotated

import typer


def complete_runs(incomplete: str) -> list[tuple[str, str]]:
    """(id, spec name) of runs that begin so. Whatever goes wrong, a shell in the middle of a line gets no runs."""
    try:
        from orchestrator.store import Store

        with Store.open(wait_s=1) as store:
            return store.ids(incomplete)
    except Exception:
        return []


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id, the beginning of one, or latest.",
        autocompletion=complete_runs,
        show_default=False,
    ),
]
