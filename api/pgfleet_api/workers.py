"""``/v1/workers``: who is at work, and what they are told. For admins."""

from __future__ import annotations

from flask import Blueprint, Response

from pgfleet import db, workers
from pgfleet.tokens import User
from pgfleet_api import deeds, messages, models, responses
from pgfleet_api.auth import admin_only
from pgfleet_api.openapi import documented
from pgfleet_api.state import state

blueprint = Blueprint("workers", __name__, url_prefix="/v1/workers")


@blueprint.get("")
@documented("The workers, the oldest first", answers={200: list[models.Worker]}, errors=(403,))
@admin_only
def find(user: User) -> Response:
    with state().connections.take() as conn:
        rows = workers.list_workers(conn)
    return messages.answer([responses.worker(row) for row in rows])


@blueprint.post("/<id>/pause")
@documented("Let a worker take no more tasks", answers={200: models.Worker}, errors=(403, 404))
@admin_only
def pause(user: User, id: str) -> Response:
    return _order(user, id, "pause")


@blueprint.post("/<id>/resume")
@documented("Let a paused worker take tasks again", answers={200: models.Worker}, errors=(403, 404))
@admin_only
def resume(user: User, id: str) -> Response:
    return _order(user, id, "work")


@blueprint.post("/<id>/drain")
@documented("Let a worker finish what it has, and end", answers={200: models.Worker}, errors=(403, 404))
@admin_only
def drain(user: User, id: str) -> Response:
    return _order(user, id, "drain")


def _order(user: User, id: str, orders: workers.Orders) -> Response:
    """Tell the worker of that id, or of that UUID: a nickname may hold what a path can't."""
    # One transaction: the order holds the worker's row, so that it is still there to be shown.
    with state().connections.take() as conn, db.ours(), conn.transaction():
        worker = workers.get(conn, messages.worker_id(id))["id"]
        workers.order_worker(conn, worker, orders)
        row = workers.get(conn, worker)
    deeds.tell("worker.ordered", user, worker=worker, orders=orders)
    return messages.answer(responses.worker(row))
