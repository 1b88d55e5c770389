"""Every query of the dashboard and of the alerts, asked of a Prometheus that scrapes `farm metrics`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import yaml

from orchestrator.store import Store
from specs.errors import ExitCode
from specs.result import Judgement, RunStatus
from tests.deploy.grafana import dashboard_queries
from tests.deploy.prometheus import DEPLOY, Prometheus, farm_metrics, prometheus
from tests.orchestrator import builders

RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('metrics')}/farm.db"


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """After two scrapes of a farm in which one spec held and another one broke."""
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus here: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with pytest.MonkeyPatch.context() as patch, Store.open(url) as store:
        patch.setenv("FARM_DATABASE_URL", url)
        model = builders.throughput(cost=1.6)
        held = Judgement(
            verdicts=[builders.verdict()], speeds=[], throughputs=[model], errors=[], exit_code=ExitCode.MET
        )
        judged(store, "held", held)
        judged(store, "broke", builders.every_outcome())
        with farm_metrics() as target, prometheus(folder, target) as running:
            running.wait_for("count_over_time(farm_scrape_success[1m]) >= 2")
            yield running


def judged(store: Store, name: str, judgement: Judgement) -> None:
    run = store.create_run(builders.plan(name=name), farm_version="0.1.0")
    store.set_status(run.id, RunStatus.COMPLETE, judgement=judgement)


@pytest.mark.parametrize("query", dashboard_queries(spec="held|broke", rate_interval="1m"))
def test_every_panel_has_data(server: Prometheus, query: str) -> None:
    assert server.query(query)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_the_condition_of_every_alert_is_met_by_the_spec_that_broke(server: Prometheus, rule: dict[str, str]) -> None:
    assert {series["metric"]["spec"] for series in server.query(rule["expr"])} == {"broke"}


def test_the_alert_of_a_flip_fires_at_once_and_names_the_variant(server: Prometheus) -> None:
    (alert,) = server.wait_for('ALERTS{alertname="DeterminismBroken", alertstate="firing"}')
    assert (alert["metric"]["spec"], alert["metric"]["variant"]) == ("broke", "persistent")


def test_a_new_run_shows_in_the_rates(server: Prometheus, url: str) -> None:
    with Store.open(url) as store:
        judged(store, "broke", builders.every_outcome())
    (series,) = server.wait_for('sum by (variant) (increase(farm_flips_total{variant="streamk"}[1m])) > 0')
    assert series["metric"] == {"variant": "streamk"}
    assert server.query('farm_flips_total{variant="streamk"}')[0]["value"][1] == "62"
