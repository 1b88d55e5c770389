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
            out.print(f"failed, {name}: {failure}", markup=False)
    for name, failure in reduced["failures"].items():
        out.print(f"all-reduce not measured, {name}: {failure}", markup=False)


def _decode_table(ways: dict[str, Any]) -> Table:
    from rich.table import Table

    title = "milliseconds of a pass and of the engine's step, one token for each sequence"
    table = Table("decode", box=None, title=title, title_justify="left")
    for heading in ("batch", "pass", "x floor", "graph", "step", "x floor", "tokens/s", "traced"):
        table.add_column(heading, justify="right")
    for name, way in ways.items():
        for row in way["decode"]:
            engine = row["engine"] or {}
            table.add_row(
                f"{name}, {way['gemm']}",
                str(row["batch"]),
                f"{row['seconds'] * 1e3:.3f}",
                _ratio(row["times_floor"]),
                "yes" if row["captured"] else "no",
                f"{engine['seconds'] * 1e3:.3f}" if engine else "-",
                _ratio(engine.get("times_floor")),
                f"{(engine or row)['tokens_per_second']:.0f}",
                f"x {engine['traced_seconds'] / engine['seconds']:.2f}" if engine else "-",
            )
    return table


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


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
