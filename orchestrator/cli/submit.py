"""`farm submit` and `farm resume`: the main path, from a spec to a verdict."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orchestrator.cli.options import Address, Json, Overrides, SpecArgument
from orchestrator.cli.run_argument import RunArgument

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster
    from orchestrator.store import Store

JUnit = Annotated[Path | None, typer.Option(help="Also write the verdicts as JUnit XML.", dir_okay=False)]
Html = Annotated[Path | None, typer.Option(help="Also write the report as one HTML file.", dir_okay=False)]


def submit(
    spec: SpecArgument,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    junit: JUnit = None,
    html: Html = None,
) -> None:
    """Run a spec and judge it.

    Exit code: 0 met, 1 failed, 2 usage, 3 inconclusive, 4 infrastructure, 130 interrupted.
    """
    from importlib.metadata import version

    from orchestrator.cli.output import check_writable
    from orchestrator.cluster import connect
    from orchestrator.plan import make_plan
    from orchestrator.run_folder import RunFolder
    from orchestrator.store import Store
    from specs.load import dump_job, load_job

    job = load_job(spec, overrides or ())
    check_writable(junit, html)
    with Store.open() as store, connect(address, job) as cluster:
        plan = make_plan(job, cluster.capacity(job))
        record = store.create_run(plan, farm_version=version("determinism-farm"))
        folder = RunFolder(record.folder)
        folder.write_spec(dump_job(job))
        folder.write_plan(plan)
        _run(store, cluster, record.id, as_json, junit, html)


def resume(
    run: RunArgument,
    address: Address = None,
    as_json: Json = False,
    junit: JUnit = None,
    html: Html = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also where another host runs it, which you know is gone.")
    ] = False,
) -> None:
    """Run what is missing of a run that was interrupted or failed, then judge all of it."""
    from orchestrator.cli.output import check_writable
    from orchestrator.cluster import connect
    from orchestrator.store import Store

    check_writable(junit, html)
    with Store.open() as store:
        run_id = store.get(run).id
        with connect(address) as cluster:
            _run(store, cluster, run_id, as_json, junit, html, take_over=take_over)


def _run(
    store: Store,
    cluster: Cluster,
    run_id: str,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
    *,
    take_over: bool = False,
) -> NoReturn:
    from orchestrator.cli.output import console, print_json, write_file
    from orchestrator.execute import execute
    from orchestrator.progress import showing
    from orchestrator.report.document import run_document
    from orchestrator.report.html import render_html
    from orchestrator.report.junit import render_junit
    from orchestrator.report.table import render_table
    from orchestrator.run_folder import RunFolder

    # A job scheduler's SIGTERM is Ctrl-C by another name: both leave a run that can be resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    err = console(stderr=True)
    record, pending = store.get(run_id), [unit for unit, _ in store.pending(run_id)]
    err.print(f"run {run_id}: {len(pending)} of {record.units} units to do", markup=False)
    try:
        with showing(err, pending, store.plan(run_id).capacity.workers) as progress:
            record = execute(store, RunFolder(record.folder), run_id, cluster, progress, take_over=take_over)
    except KeyboardInterrupt:
        err.print(f"interrupted: go on with farm resume {run_id}", markup=False)
        raise
    if as_json:
        print_json("run", run_document(record))
    else:
        render_table(record, console())
    if junit is not None:
        write_file(junit, render_junit(record))
    if html is not None:
        write_file(html, render_html(record))
    assert record.exit_code is not None
    raise typer.Exit(record.exit_code)
