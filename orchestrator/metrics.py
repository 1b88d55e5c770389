"""The farm's database as Prometheus metrics, read anew at each scrape, so that a restart loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.database import Database
from orchestrator.readings import Labels, Readings, Values, read
from orchestrator.tables import REVISION
from specs.errors import FarmError, InfrastructureError

DEADLINE_S = 5.0
"""For the database to answer one scrape: half of what Prometheus waits for unless told otherwise."""

_TARGET: Labels = ("spec", "variant", "dtype", "shape", "mode", "prompt", "device")
"""Of a kernel's group `mode` and `prompt` are empty, of a model's `shape` is."""
_GROUP: Labels = (*_TARGET, "property")
_MODE: Labels = ("spec", "variant", "dtype", "mode", "device")

_COUNTERS: dict[str, tuple[Labels, str]] = {
    "farm_samples": (_GROUP, "Samples compared, in all judged runs."),
    "farm_flips": (_GROUP, "Samples that were not the most frequent result of their item, in all judged runs."),
}
_GAUGES: dict[str, tuple[Labels, str]] = {
    "farm_verdict_state": ((*_GROUP, "expected", "state"), "1 for the state of the newest verdict, 0 for the others."),
    "farm_last_run_samples": (_GROUP, "Samples compared in the newest judged run."),
    "farm_last_run_distinct_digests": (_GROUP, "Distinct results in the newest judged run, of the item that has most."),
    "farm_flip_rate_bound_ratio": (_GROUP, "Exact 95 % upper bound of the flip rate, where none was seen."),
    "farm_kernel_time_seconds": (_TARGET, "Median time of one launch."),
    "farm_determinism_cost_ratio": (_TARGET, "Median time over that of the fastest nondeterministic variant."),
    "farm_generation_tokens_per_second": (_MODE, "New tokens a second, over one batch of each unit of a mode."),
    "farm_generation_cost_ratio": (
        _MODE,
        "Tokens a second of the fastest nondeterministic target on as many ranks, over those of this one.",
    ),
    "farm_runs": (("spec", "status"), "Runs in the database."),
    "farm_last_run_exit_code": (
        ("spec",),
        "0 met, 1 failed, 2 usage, 3 inconclusive, 4 infrastructure, 130 interrupted.",
    ),
    "farm_last_run_duration_seconds": (("spec",), "From the creation of the newest ended run to its end."),
    "farm_last_run_timestamp_seconds": (("spec",), "When the newest ended run ended."),
    "farm_last_success_timestamp_seconds": (("spec",), "When the newest run that met all expectations ended."),
}


def service_registry(collector: FarmCollector) -> CollectorRegistry:
    """The farm's metrics, and those of the process that serves them."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class FarmCollector(Collector):
    """Never fails a scrape: where the database does not answer in time, it repeats the last answer and says so."""

    def __init__(self, database: Database, deadline_s: float = DEADLINE_S) -> None:
        self._database, self._deadline_s = database, deadline_s
        self._scrape = threading.Lock()
        self._reader: threading.Thread | None = None
        self._readings: Readings = {}
        self._unread: FarmError | None = None
        self._errors = 0
        self.failure: FarmError | None = None
        """Why the database did not answer the newest scrape; None if it did."""

    def collect(self) -> Iterator[Metric]:
        with self._scrape:
            started = time.perf_counter()
            self.failure = self._refresh()
            self._errors += self.failure is not None
            families = [*_families(self._readings), *self._own(time.perf_counter() - started)]
        yield from families

    def _refresh(self) -> FarmError | None:
        # In a thread, since no driver can be told how long a whole read may take. A late one isn't started twice: the
        # next scrape waits for it.
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read, name="farm-metrics", daemon=True)
            self._reader.start()
        self._reader.join(self._deadline_s)
        if self._reader.is_alive():
            return InfrastructureError(f"the database did not answer in {self._deadline_s:g} s")
        return self._unread

    def _read(self) -> None:
        self._unread = InfrastructureError("reading the database failed")  # what a traceback leaves behind
        try:
            with self._database.reading() as connection:
                readings = read(connection)
        except FarmError as error:
            self._unread = error
            return
        for name in _COUNTERS:
            readings[name] = _never_less(readings[name], self._readings.get(name, {}))
        self._readings, self._unread = readings, None

    def _own(self, seconds: float) -> Iterator[Metric]:
        build = {"version": version("determinism-farm"), "schema": REVISION}
        yield InfoMetricFamily("farm_build", "Version of the farm and of its database schema.", build)
        documentation = "1 if the database answered this scrape; 0 if the farm's metrics are those of an earlier one."
        yield GaugeMetricFamily("farm_scrape_success", documentation, float(self.failure is None))
        yield GaugeMetricFamily("farm_scrape_duration_seconds", "Time taken by reading the database.", seconds)
        documentation = "Scrapes that the database did not answer, since this process began."
        yield CounterMetricFamily("farm_scrape_errors", documentation, self._errors)


def _never_less(totals: Values, before: Values) -> Values:
    """A judged run that is resumed has no verdicts until it is judged again: its samples still count meanwhile."""
    return before | {labels: max(total, before.get(labels, 0.0)) for labels, total in totals.items()}


def _families(readings: Readings) -> Iterator[Metric]:
    for name, (labels, documentation) in _COUNTERS.items():
        counter = CounterMetricFamily(name, documentation, labels=labels)
        for values, total in readings.get(name, {}).items():
            counter.add_metric(values, total)
        yield counter
    for name, (labels, documentation) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, documentation, labels=labels)
        for values, value in readings.get(name, {}).items():
            gauge.add_metric(values, value)
        yield gauge
