"""What can be seen of the dashboard and its provisioning without a Grafana."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from orchestrator.metrics import _COUNTERS, _GAUGES, _GROUP
from specs.errors import ExitCode
from tests.deploy.grafana import dashboard, dashboard_queries
from tests.deploy.prometheus import DEPLOY

PANELS = dashboard()["panels"]
TITLES = [panel["title"] for panel in PANELS]


def test_the_dashboard_keeps_its_address_and_can_be_read_by_any_prometheus() -> None:
    assert dashboard()["uid"] == "determinism-farm"
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["spec"]["multi"] and variables["spec"]["includeAll"]


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_a_panel_takes_its_data_from_the_chosen_source_and_explains_itself(panel: dict[str, Any]) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert all(part["datasource"] == chosen for part in (panel, *panel["targets"]))
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert panel["description"]
    assert panel["type"] == "table" or {"unit", "mappings"} & set(panel["fieldConfig"]["defaults"])


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23


def test_every_exit_code_has_a_word() -> None:
    state = next(panel for panel in PANELS if "farm_last_run_exit_code" in panel["targets"][0]["expr"])
    [mapping] = state["fieldConfig"]["defaults"]["mappings"]
    assert set(mapping["options"]) == {str(code.value) for code in ExitCode}


def test_rates_are_taken_over_the_interval_that_grafana_computes() -> None:
    queries = dashboard_queries(spec=".*", rate_interval="$__rate_interval")
    ranges = [found for query in queries for found in re.findall(r"\[(.*?)\]", query)]
    assert ranges and set(ranges) == {"$__rate_interval"}


def test_tables_have_a_row_for_each_group_of_a_run() -> None:
    labels = _GROUP
    tables = [panel for panel in PANELS if panel["type"] == "table"]
    assert tables
    for target in (target for panel in tables for target in panel["targets"]):
        shown = re.match(r"max by \((.*?)\)", target["expr"])
        assert shown and set(labels) <= set(shown.group(1).split(", "))


def test_every_metric_of_a_verdict_or_a_speed_is_shown() -> None:
    queries = " ".join(dashboard_queries(spec=".*", rate_interval="$__rate_interval"))
    # Prometheus names a counter with its unit.
    wanted = [*(f"{name}_total" for name in _COUNTERS), *(name for name in _GAUGES if "timestamp" not in name)]
    assert [name for name in wanted if name not in queries] == []


def test_the_provisioned_source_asks_as_often_as_prometheus_scrapes() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert (source["type"], source["uid"]) == ("prometheus", "determinism-farm")
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_the_provisioned_folder_is_one_of_files() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/farm.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/")
