"""`farm metrics`: the database for Prometheus, served to it or written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specs.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.metrics import FarmCollector


def metrics(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics on this port until interrupted; 0: a free one.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; 0.0.0.0 lets other machines scrape it.")
    ] = "127.0.0.1",
    once: Annotated[
        Path | None, typer.Option(metavar="FILE", allow_dash=True, help="Write the metrics there once; - prints them.")
    ] = None,
) -> None:
    """Show what the farm's database holds as Prometheus metrics."""
    from orchestrator.database import Database
    from orchestrator.metrics import FarmCollector

    if (port is None) == (once is None):
        given = "neither" if port is None else "both"
        raise UsageError(f"{given} given: allowed: either --port N, to serve, or --once FILE, to write once")
    database = Database(None)
    try:
        if once is not None:
            _write(FarmCollector(database), once)
        elif port is not None:
            _serve(FarmCollector(database), host, port)
    finally:
        database.engine.dispose()


def _write(collector: FarmCollector, path: Path) -> None:
    """Without this process's own metrics: it is over when the file is read."""
    from prometheus_client import generate_latest

    text = generate_latest(collector)
    if collector.failure is not None:
        raise collector.failure
    if path == Path("-"):
        typer.echo(text.decode(), nl=False)
        return
    # Under its name it is there whole or not at all: node_exporter may read it at any moment.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(text)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error


def _serve(collector: FarmCollector, host: str, port: int) -> None:
    import signal
    import threading

    from prometheus_client import start_http_server

    from orchestrator.metrics import service_registry

    stop = threading.Event()
    # As the first process of a container it would not be ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        server, _ = start_http_server(port, host, service_registry(collector))
    except OSError as error:
        raise UsageError(f"can't listen on {host}:{port}: {error.strerror}; give another --port or --host") from error
    typer.echo(f"serving metrics on http://{host}:{server.server_port}/metrics", err=True)
    stop.wait()
