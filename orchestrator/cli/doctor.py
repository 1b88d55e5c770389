"""`farm doctor`: what this machine can run, and what to install for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.options import Json
from specs.errors import ExitCode, FarmError

if TYPE_CHECKING:
    import torch


def doctor(as_json: Json = False) -> None:
    """Say what this machine can run, and what to install for the rest. Builds the kernels if need be."""
    import torch

    from orchestrator.cli.output import console, print_json

    devices = [torch.device("cpu")] + ([torch.device("cuda", 0)] if torch.cuda.is_available() else [])
    checks = [_build(device) for device in devices]
    if len(devices) == 1:
        why = (
            f"torch {torch.__version__} sees no CUDA GPU; install a CUDA build of torch on a machine with a Hopper GPU"
        )
        checks.append({"check": "device cuda", "ok": False, "detail": why})
    checks += [_variant(name, devices[-1]) for name in _variants()]
    if as_json:
        print_json("doctor", {"checks": checks})
    else:
        from rich.markup import escape

        out = console()
        for check in checks:
            mark = "[green]yes[/]" if check["ok"] else "[yellow]no [/]"
            out.print(f"{mark}  {check['check']:26} {escape(check['detail'])}", soft_wrap=True)
    if not checks[0]["ok"]:
        raise typer.Exit(ExitCode.INFRASTRUCTURE)


def _build(device: torch.device) -> dict[str, Any]:
    from workers.gemm.native import load

    name = f"device {device.type}"
    try:
        info = load("cuda" if device.type == "cuda" else "cpu").build_info
    except FarmError as error:
        return {"check": name, "ok": False, "detail": str(error)}
    return {"check": name, "ok": True, "detail": ", ".join(f"{key} {value}" for key, value in info.items())}


def _variants() -> list[str]:
    from specs.job import OWN_VARIANTS, PEER_VARIANTS

    return [*OWN_VARIANTS, *PEER_VARIANTS]


def _variant(name: str, device: torch.device) -> dict[str, Any]:
    """Asked with a problem that every implementation can take, so that only the machine can be the reason."""
    import torch

    from workers.gemm.targets import find_target

    try:
        reason = find_target(name).unsupported(128, 1024, 1024, torch.bfloat16, device)
    except FarmError as error:
        reason = str(error)
    return {"check": f"variant {name}", "ok": reason is None, "detail": reason or f"runs on {device.type}"}
