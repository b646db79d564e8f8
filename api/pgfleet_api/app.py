"""The application: one blueprint a topic, and what happens around every request."""

from __future__ import annotations

import itertools
import re
import secrets
import time

from flask import Flask, Response, g, request

from pgfleet import log, tokens
from pgfleet.settings import Settings
from pgfleet_api import (
    cluster_api,
    cors,
    errors,
    files,
    health,
    openapi,
    places,
    schedules,
    tasks,
    trigger_api,
    workers,
)
from pgfleet_api.connections import Connections
from pgfleet_api.counters import Counters
from pgfleet_api.creation import Creator
from pgfleet_api.notifier import Notifier
from pgfleet_api.state import KEY, State

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(settings: Settings) -> Flask:
    """The WSGI application. Connects to nothing yet; raises :class:`~pgfleet.errors.SettingsError`.

    Whoever serves it calls ``app.extensions["pgfleet"].close()`` at the end.
    """
    settings.require_database()
    connections, notifier = Connections(settings), Notifier(settings)
    bodies = places.for_bodies(settings.api_threads)
    state = State(
        settings=settings,
        connections=connections,
        notifier=notifier,
        creator=Creator(connections, notifier, keyed=places.for_keyed(settings.api_threads, bodies)),
        verifier=_verifier(settings),
        counters=Counters(),
        bodies=bodies,
        downloads=places.for_downloads(settings.api_threads, bodies),
    )
    app = Flask("pgfleet_api", static_folder=None)
    app.extensions[KEY] = state
    app.config["MAX_CONTENT_LENGTH"] = settings.api_max_body
    app.json.sort_keys = False  # type: ignore[attr-defined] # of Flask's default provider
    # Paths mean what they say: no redirects for a slash more or less.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    errors.init_app(app)
    _observe(app, state)
    cors.init_app(app, settings.cors_origins)
    for topic in (tasks, files, workers, schedules, trigger_api, cluster_api, health, openapi):
        app.register_blueprint(topic.blueprint)
    return app


def _verifier(settings: Settings) -> tokens.Verifier | None:
    logger = log.get()
    if settings.auth_single_user:
        logger.warning(
            "auth.single_user",
            message="SINGLE-USER MODE: no token is asked for, whoever reaches this port is user 1.",
        )
        return None
    verifier = tokens.Verifier(settings)
    if verifier.weak:
        logger.warning(
            "auth.weak_secret",
            message=f"PGFLEET_AUTH_SECRET_KEY is short enough to be guessed; {tokens.SAFE_SECRET} bytes are safe.",
        )
    if settings.auth_jwks_url and settings.auth_secret_key:
        logger.warning("auth.secret_unused", message="PGFLEET_AUTH_JWKS_URL is set, so the secret is not used.")
    return verifier


def _observe(app: Flask, state: State) -> None:
    """A request id in every response and error; counts and, at debug level, a log line of every request."""
    logger, debugs = log.get(), state.settings.log_level == "debug"
    # Unique is enough: to ask the system for randomness each time cost a tenth of a small request.
    process, numbers = secrets.token_hex(6), itertools.count(1)

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()
        given = request.environ.get("HTTP_X_REQUEST_ID", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else f"{process}-{next(numbers):x}"

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        rule = request.url_rule
        state.counters.count(
            (request.method if rule else "any", rule.rule if rule else "none", response.status_code), seconds
        )
        response.headers["X-Request-ID"] = g.request_id
        if debugs:  # to hand over what it would log costs 10 us
            logger.debug(
                "request.served",
                method=request.method,
                path=request.path,
                status=response.status_code,
                milliseconds=round(seconds * 1000, 2),
                request_id=g.request_id,
            )
        return response
