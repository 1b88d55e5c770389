"""`farm bench`: how fast the farm counts, and its kernels beside others."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.options import Json
from specs.device import Device

if TYPE_CHECKING:
    from rich.table import Table


class BenchModel(StrEnum):
    """The presets of random models."""

    NANO = "deepseek-v3-nano"
    MINI = "deepseek-v3-mini"
    LAYER = "deepseek-v3-layer"


def bench(
    device: Annotated[
        Device, typer.Option(help="Where: auto takes the GPU where torch sees one. An H200 takes about a minute.")
    ] = Device.AUTO,
    model: Annotated[
        BenchModel | None,
        typer.Option(help="Measure a random model instead: decode, prefill, and the all-reduces of this host's GPUs."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write the figures as JSON, on a GPU after every weight.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the farm's kernels: on a GPU beside its peers, on the CPU beside torch, with the counting rate."""
    from orchestrator.cli.output import check_writable, print_json

    check_writable(output)
    if model is not None:
        _bench_model(model, "cuda" if _uses_gpu(device) else "cpu", output, as_json=as_json)
        return
    document = _on_gpu(output) if _uses_gpu(device) else _on_cpu(output)
    if as_json:
        print_json("bench", document)
    elif "gemm" in document:
        _print_cpu(document)
    else:
        _print_gpu(document)


def _bench_model(model: BenchModel, device: Literal["cpu", "cuda"], output: Path | None, *, as_json: bool) -> None:
    from orchestrator.bench_model import bench_model_documents
    from orchestrator.cli.bench_model import print_model_bench
    from orchestrator.cli.output import console, print_json

    told, document = console(stderr=True), dict[str, Any]()
    for done, document in bench_model_documents(model.value, device):
        _write(output, document)
        told.print(done)
    if as_json:
        print_json("bench", document)
    else:
        print_model_bench(document)


def _uses_gpu(device: Device) -> bool:
    import torch

    from specs.errors import InfrastructureError

    seen = torch.cuda.is_available()
    if device is Device.CUDA and not seen:
        raise InfrastructureError(f"torch {torch.__version__} sees no CUDA GPU: run on one, or use --device cpu")
    return seen and device is not Device.CPU


def _on_cpu(output: Path | None) -> dict[str, Any]:
    from orchestrator.bench import bench_cpu_document

    document = bench_cpu_document()
    _write(output, document)
    return document


def _on_gpu(output: Path | None) -> dict[str, Any]:
    from orchestrator.bench import bench_gpu_documents
    from orchestrator.cli.output import console

    told, latest = console(stderr=True), dict[str, Any]()
    told.print("building the kernels, and warming DeepGEMM's cache")
    for total, document in bench_gpu_documents():
        latest = document
        _write(output, latest)
        told.print(f"{len(latest['cells'])} of {total} shapes measured")
    return latest


def _write(output: Path | None, document: dict[str, Any]) -> None:
    from orchestrator.cli.output import write_file

    if output is not None:
        write_file(output, json.dumps(document, indent=2) + "\n")


def _print_cpu(document: dict[str, Any]) -> None:
    from orchestrator.cli.output import console

    out = console()
    out.print(_cpu_table(document["gemm"]))
    out.print(f"counting: {document['observations_per_second'] / 1e6:.2f} million observations a second on one core")


def _print_gpu(document: dict[str, Any]) -> None:
    from orchestrator.cli.output import console

    out, found = console(), document["summary"]
    out.print(_gpu_table(document["cells"]))
    for title, key in (("up to 128 tokens", "geomean_small_m"), ("512 tokens and more", "geomean_large_m")):
        if found[key] is not None:
            out.print(f"fastest peer's time / ours, {title}: {found[key]:.3f} (geometric mean)")
    worst = found["worst_cell"]
    if worst is not None:
        out.print(f"worst: {worst['ratio']:.3f} at {_shape_text(worst['shape'])}, against {worst['peer']}")


def _gpu_table(cells: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    names = list(dict.fromkeys(name for cell in cells for name in cell["targets"]))
    table = Table("shape (m x k x n)", box=None, title="microseconds a launch", title_justify="left")
    for heading in ("floor", "% of it", *names):
        table.add_column(heading, justify="right")
    for cell in cells:
        times = [cell["targets"][name]["median_seconds"] if name in cell["targets"] else None for name in names]
        percent = cell["percent_of_floor"]
        table.add_row(
            _shape_text(cell["shape"]),
            f"{cell['floor_seconds'] * 1e6:.1f}",
            "-" if percent is None else f"{percent:.0f}",
            *("-" if seconds is None else f"{seconds * 1e6:.1f}" for seconds in times),
        )
    return table


def _cpu_table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for heading in ("shape (m x k x n)", "target", "median", "quartiles", "GFLOP/s", "x torch fp32"):
        table.add_column(heading, justify="left" if heading in ("shape (m x k x n)", "target") else "right")
    for row in rows:
        low, high = (f"{seconds * 1e3:.2f}" for seconds in row["quartiles_seconds"])
        table.add_row(
            _shape_text(row["shape"]),
            row["target"],
            f"{row['median_seconds'] * 1e3:.2f} ms",
            f"{low} to {high}",
            f"{row['gigaflops']:.0f}",
            f"{row['times_torch_fp32']:.2f}",
        )
    return table


def _shape_text(shape: list[int]) -> str:
    return "x".join(map(str, shape))
