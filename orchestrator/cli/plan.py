"""`farm plan`: what `farm submit` would run."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import Address, Json, Overrides, SpecArgument


def plan(
    spec: SpecArgument,
    overrides: Overrides = None,
    address: Address = None,
    units: Annotated[bool, typer.Option("--units", help="List every work unit.")] = False,
    as_json: Json = False,
) -> None:
    """Print the work units that `farm submit` would run, without running them."""
    from contextlib import nullcontext

    from orchestrator.cli.output import console, print_json
    from orchestrator.cluster import connect, local
    from orchestrator.plan import make_plan
    from specs.load import load_job

    job = load_job(spec, overrides or ())
    with connect(address) if address else nullcontext(local()) as cluster:
        made = make_plan(job, cluster.capacity(job))
    if as_json:
        print_json("plan", made.model_dump(mode="json"))
        return
    out, capacity = console(), made.capacity
    each = f"{capacity.cpus_per_worker:g} CPU, {capacity.gpus_per_worker:g} GPU each"
    out.print(f"{job.name}: {len(made.units)} units on {capacity.workers} {capacity.device} workers ({each})")
    for unit in made.units if units else ():
        trials = f"trials {unit.first_trial} to {unit.first_trial + unit.trials - 1}"
        out.print(f"{unit}: {trials}, about {unit.estimate_s:.1f} s", markup=False)
    totals: dict[str, int] = {}
    for unit in made.units:
        totals[unit.activity] = totals.get(unit.activity, 0) + unit.trials
    what = "launches" if job.kind == "kernel" else "batches"
    for activity, number in totals.items():
        out.print(f"  {activity}: {number} {what}")
    out.print(f"about {made.estimate_s:.0f} s in all")
