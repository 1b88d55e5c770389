"""`farm bench`: how fast the farm counts, and its kernels beside others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table


def bench(
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """Measure the counting rate, and the farm's CPU kernels beside torch's float32 product."""
    from orchestrator.bench import bench_cpu_document
    from orchestrator.cli.output import console, print_json, write_file

    document = bench_cpu_document()
    if output is not None:
        write_file(output, json.dumps(document, indent=2) + "\n")
    if as_json:
        print_json("bench", document)
        return
    out = console()
    out.print(_table(document["gemm"]))
    out.print(f"counting: {document['observations_per_second'] / 1e6:.2f} million observations a second on one core")


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for heading in ("shape (m x k x n)", "target", "median", "quartiles", "GFLOP/s", "x torch fp32"):
        table.add_column(heading, justify="left" if heading in ("shape (m x k x n)", "target") else "right")
    for row in rows:
        low, high = (f"{seconds * 1e3:.2f}" for seconds in row["quartiles_seconds"])
        table.add_row(
            "x".join(map(str, row["shape"])),
            row["target"],
            f"{row['median_seconds'] * 1e3:.2f} ms",
            f"{low} to {high}",
            f"{row['gigaflops']:.0f}",
            f"{row['times_torch_fp32']:.2f}",
        )
    return table
