"""The server of the ``http`` benchmark: the real one, with ``POST /bench/empty`` beside its routes.

The empty endpoint does what every endpoint must: it verifies the token, reads the JSON body, answers JSON.
Run as ``python -m tests.benchmarks.http_app`` with the settings in ``PGFLEET_*``.
"""

from __future__ import annotations

from flask import Flask, Response

from pgfleet.settings import Settings, from_env
from pgfleet.tokens import User
from pgfleet_api import create_app, messages
from pgfleet_api.auth import authenticated
from pgfleet_api.server import serve


def with_empty_endpoint(settings: Settings) -> Flask:
    """The application, and ``POST /bench/empty``."""
    app = create_app(settings)

    @app.post("/bench/empty")
    @authenticated
    def empty(user: User) -> Response:
        messages.json_body()
        return messages.answer([])

    return app


if __name__ == "__main__":
    serve(from_env(), with_empty_endpoint)
