"""The tables of `farm bench --model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_model_bench(document: dict[str, Any]) -> None:
    from orchestrator.cli.output import console

    out, ways = console(), document["ways"]
    out.print(_decode_table(ways))
    for name, way in ways.items():
        found = way["prefill"]
        if found is not None:
            out.print(
                f"prefill of {found['tokens']} tokens, {name}: {found['seconds'] * 1e3:.2f} ms, "
                f"{found['gemm_share']:.0%} of it products"
            )
    cost = document["cost_of_determinism"]
    shown = [f"{float(ratio):.2f} at {batch}" for batch, ratio in cost["decode"].items()]
    out.print(f"deterministic / ordinary, decode: {', '.join(shown) or '-'}")
    if cost["prefill"] is not None:
        out.print(f"deterministic / ordinary, prefill: {cost['prefill']:.2f}")
    reduced = document["all_reduce"]
    if reduced["times"]:
        out.print(_reduce_table(reduced))
    for name, way in ways.items():
        for failure in way["failures"]:
            out.print(f"failed, {name}: {failure}")
    for name, failure in reduced["failures"].items():
        out.print(f"all-reduce not measured, {name}: {failure}")


def _decode_table(ways: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("decode", box=None, title="milliseconds a pass, one token for each sequence", title_justify="left")
    for heading in ("batch", "time", "x floor", "tokens/s", "graph", "engine's step"):
        table.add_column(heading, justify="right")
    for name, way in ways.items():
        for row in way["decode"]:
            table.add_row(
                f"{name}, {way['gemm']}",
                str(row["batch"]),
                f"{row['seconds'] * 1e3:.3f}",
                "-" if row["times_floor"] is None else f"{row['times_floor']:.2f}",
                f"{row['tokens_per_second']:.0f}",
                "yes" if row["captured"] else "no",
                "-" if row["engine_seconds"] is None else f"{row['engine_seconds'] * 1e3:.3f}",
            )
    return table


def _reduce_table(reduced: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("all-reduce", box=None, title=f"microseconds, {reduced['ranks']} ranks", title_justify="left")
    for heading in ("implementation", "tokens", "called", "in a graph"):
        table.add_column(heading, justify="left" if heading == "implementation" else "right")
    for row in reduced["times"]:
        graph = row["graph_seconds"]
        table.add_row(
            row["collective"],
            row["implementation"],
            str(row["tokens"]),
            f"{row['call_seconds'] * 1e6:.1f}",
            "-" if graph is None else f"{graph * 1e6:.1f}",
        )
    return table
