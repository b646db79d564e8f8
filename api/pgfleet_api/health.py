"""Probes and metrics: ``/health``, ``/ready``, ``/metrics``. For the operators' machinery, without a token."""

from __future__ import annotations

import threading
import time

from flask import Blueprint, Response

from pgfleet import db, migrate, sql, workers
from pgfleet.errors import DatabaseAway
from pgfleet_api import messages, models
from pgfleet_api.openapi import documented
from pgfleet_api.state import State, state

blueprint = Blueprint("health", __name__)

#: Seconds a look at the database serves all who ask for metrics: nobody can make it work by asking often.
FRESH = 2.0

_lock = threading.Lock()


@blueprint.get("/health")
@documented("Does this process answer?", "Asks nothing of the database.", answers={200: models.Message})
def health() -> Response:
    return messages.answer(models.Message(status="ok"))


@blueprint.get("/ready")
@documented(
    "Can requests be served?",
    "503 while the database is away, or its schema lacks what this version needs; not for what a newer one has done to it.",
    answers={200: models.Message},
    errors=(503,),
)
def ready() -> Response:
    fleet = state()
    with fleet.connections.take() as conn:
        migrate.require_usable(conn, fleet.settings)
    return messages.answer(models.Message(status="ready"))


@blueprint.get("/metrics")
@documented("Metrics, as Prometheus reads them", answers={200: str})
def metrics() -> Response:
    fleet = state()
    lines = [
        "# HELP pgfleet_http_requests_total Requests served by this process.",
        "# TYPE pgfleet_http_requests_total counter",
    ]
    served = fleet.counters.read()
    labels = {key: _labels(method=key[0], route=key[1], status=str(key[2])) for key, _, _ in served}
    lines += [f"pgfleet_http_requests_total{labels[key]} {count}" for key, count, _ in served]
    lines += [
        "# HELP pgfleet_http_request_seconds_total Time spent on them.",
        "# TYPE pgfleet_http_request_seconds_total counter",
    ]
    lines += [f"pgfleet_http_request_seconds_total{labels[key]} {seconds:.6f}" for key, _, seconds in served]
    lines += _database_metrics(fleet)
    return Response("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _database_metrics(fleet: State) -> list[str]:
    with _lock:
        now = time.monotonic()
        taken, lines = fleet.metrics.get("at", 0.0), fleet.metrics.get("lines", [])
        if not lines or now - taken > FRESH:
            lines = _look(fleet)
            fleet.metrics.update(at=now, lines=lines)
        return list(lines)


def _look(fleet: State) -> list[str]:
    up = ["# HELP pgfleet_database_up Does Postgres answer?", "# TYPE pgfleet_database_up gauge"]
    q = sql.queries("metrics")
    try:
        with fleet.connections.take() as conn:
            unfinished = db.call(conn, q["unfinished"]).fetchall()
            oldest = db.call(conn, q["oldest_fresh"]).fetchall()
            by_status = dict(db.call(conn, q["workers"]).fetchall())
    except DatabaseAway:
        return [*up, "pgfleet_database_up 0"]
    return [
        *up,
        "pgfleet_database_up 1",
        "# HELP pgfleet_tasks Unfinished tasks; counted up to 10000 a status, so that asking stays cheap.",
        "# TYPE pgfleet_tasks gauge",
        *(f"pgfleet_tasks{_labels(status=status, type=type)} {count}" for status, type, count in unfinished),
        "# HELP pgfleet_oldest_fresh_seconds How long the longest waiting of the tasks next in line, of any node, is ready.",
        "# TYPE pgfleet_oldest_fresh_seconds gauge",
        *(f"pgfleet_oldest_fresh_seconds{_labels(type=type)} {seconds:.3f}" for type, seconds in oldest),
        "# HELP pgfleet_workers Workers whose lease runs.",
        "# TYPE pgfleet_workers gauge",
        f"pgfleet_workers {sum(by_status.values()) - by_status.get('lost', 0)}",
        "# HELP pgfleet_workers_by_status Workers; those that were lost are remembered for an hour.",
        "# TYPE pgfleet_workers_by_status gauge",
        *(f"pgfleet_workers_by_status{_labels(status=s)} {by_status.get(s, 0)}" for s in workers.STATUSES),
    ]


def _labels(**labels: str) -> str:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
