"""`farm compare`: what changed between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.options import Json
from orchestrator.cli.run_argument import RunArgument

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.compare import Comparison, Difference, Finding


def compare(first: RunArgument, second: RunArgument, as_json: Json = False) -> None:
    """Compare two runs: spec and environment, then verdicts, then times."""
    from orchestrator.cli.output import console, print_json
    from orchestrator.compare import compare as compare_records
    from orchestrator.store import Store

    with Store.open() as store:
        comparison = compare_records(store.get(first), store.get(second))
    if as_json:
        print_json("comparison", comparison.model_dump(mode="json"))
    else:
        _print(comparison, console())


def _print(comparison: Comparison, out: Console) -> None:
    _print_differences(out, "spec", comparison.spec)
    _print_differences(out, "environment", comparison.environment)
    if not comparison.verdicts:
        out.print(f"[bold]verdicts[/]: no change in {comparison.verdicts_equal} groups")
    else:
        out.print(f"[bold]verdicts[/]: {len(comparison.verdicts)} changed, {comparison.verdicts_equal} did not")
    for change in comparison.verdicts:
        group = f"{change.variant} {change.subject} {change.dtype} {change.property}"
        out.print(f"  {group}: {_finding(change.first)} -> {_finding(change.second)}", markup=False)
    _print_speeds(comparison, out)


def _print_differences(out: Console, title: str, differences: list[Difference]) -> None:
    if not differences:
        out.print(f"[bold]{title}[/]: the same")
        return
    out.print(f"[bold]{title}[/]: {len(differences)} difference{'s' if len(differences) > 1 else ''}")
    for difference in differences:
        first, second = (
            value if value is not None else "(not there)" for value in (difference.first, difference.second)
        )
        out.print(f"  {difference.path}: {first} -> {second}", markup=False)


def _finding(finding: Finding | None) -> str:
    if finding is None:
        return "(not there)"
    return f"{finding.outcome} ({finding.unique} unique of {finding.total})"


def _print_speeds(comparison: Comparison, out: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.report.words import seconds_words

    if not comparison.speeds:
        out.print("[bold]times[/]: none that both runs have")
        return
    out.print("[bold]times[/]: median, and whether the quartiles lie apart")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("variant", "shape", "dtype", "first", "second", "ratio", ""):
        table.add_column(
            heading, justify="right" if heading in ("first", "second", "ratio") else "left", overflow="fold"
        )
    for change in comparison.speeds:
        told = ("slower" if change.ratio > 1 else "faster") if change.apart else "within the spread"
        medians = seconds_words(change.first_median), seconds_words(change.second_median)
        cells = (change.variant, str(change.shape), change.dtype, *medians, f"{change.ratio:.2f} x", told)
        table.add_row(*map(Text, cells))
    out.print(table)
