"""Metrics for Prometheus, named as other servers of models name them."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from starflow.serve.jobs import JobStore

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Gauges are read from the database when they are asked for. The others count what this process and its workers
    have done since they started.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._running = Gauge("starflow_num_requests_running", "Jobs that are being made.", registry=registry)
        self._waiting = Gauge("starflow_num_requests_waiting", "Jobs in the queue.", registry=registry)
        self._peak = Gauge("starflow_peak_memory_bytes", "The most memory of a worker.", ["worker"], registry=registry)
        self._finished = Counter(
            "starflow_requests_success", "Jobs that have ended.", ["finished_reason"], registry=registry
        )
        self._latency = Histogram(
            "starflow_e2e_request_latency_seconds", "From request to end.", buckets=SECONDS, registry=registry
        )
        self._wait = Histogram(
            "starflow_request_queue_wait_seconds", "From request to start.", buckets=SECONDS, registry=registry
        )
        self._stages = Histogram(
            "starflow_stage_gen_time_seconds", "Of each stage.", ["stage"], buckets=SECONDS, registry=registry
        )

    def finished(self, report: Mapping[str, Any]) -> None:
        """Count a job that a worker has ended."""
        self._finished.labels(report["finished_reason"]).inc()
        self._latency.observe(report["completed"] - report["created"])
        self._wait.observe(report["started"] - report["created"])
        for stage, seconds in report["stages"].items():
            self._stages.labels(stage).observe(seconds)

    def count(self, finished_reason: str) -> None:
        """Count a job that ended without a worker: it was cancelled, or its workers died."""
        self._finished.labels(finished_reason).inc()

    def page(self, store: JobStore) -> bytes:
        """The metrics as text."""
        self._running.set(store.count("in_progress"))
        self._waiting.set(store.count("queued"))
        self._peak.clear()
        for worker in store.ready_workers():
            self._peak.labels(worker.name).set(worker.peak_memory_bytes)
        return generate_latest(self.registry)
