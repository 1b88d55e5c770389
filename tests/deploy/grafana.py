"""The dashboard's queries, as Grafana would send them."""

from __future__ import annotations

import json
from typing import Any

from tests.deploy.prometheus import DEPLOY


def dashboard() -> dict[str, Any]:
    (path,) = (DEPLOY / "grafana" / "dashboards").glob("*.json")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def dashboard_queries(spec: str, rate_interval: str) -> list[str]:
    """Of every panel, with these values for the dashboard's variables."""
    return [
        target["expr"].replace("$spec", spec).replace("$__rate_interval", rate_interval)
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    ]
