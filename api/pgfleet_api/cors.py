"""Cross-origin calls (the Fetch standard's CORS protocol), for origins in ``PGFLEET_CORS_ORIGINS``; none by default.

No credentials are allowed: the token travels in a header that the client sets itself, never in a cookie.
"""

from __future__ import annotations

from flask import Flask, Response, request

ALLOW_HEADERS = "Authorization, Content-Type, If-Match, If-None-Match, If-Range, Range, X-Request-ID"
EXPOSE_HEADERS = (
    "Location, ETag, Content-Disposition, Content-Length, Accept-Ranges, Content-Range, Retry-After, X-Request-ID"
)

#: Seconds a browser may remember a preflight's answer.
MAX_AGE = "600"


def init_app(app: Flask, origins: tuple[str, ...]) -> None:
    """Let browsers on pages of ``origins`` call ``app``; ``*`` stands for any."""
    allowed = frozenset(origin.rstrip("/") for origin in origins)
    if not allowed:
        return

    @app.after_request
    def allow(response: Response) -> Response:
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is None or not (origin in allowed or "*" in allowed):
            return response
        response.headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response.headers["Access-Control-Allow-Methods"] = response.headers.pop("Allow", "GET, POST, PUT, DELETE")
            response.headers["Access-Control-Allow-Headers"] = ALLOW_HEADERS
            response.headers["Access-Control-Max-Age"] = MAX_AGE
            if response.status_code == 200:  # Flask's own answer to OPTIONS, an empty page
                response.status_code = 204
                response.headers.pop("Content-Type", None)
        else:
            response.headers["Access-Control-Expose-Headers"] = EXPOSE_HEADERS
        return response
