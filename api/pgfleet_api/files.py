"""``/v1/files``: a reader's finished exports, listed and downloaded. Nobody sees another's, not even an admin."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from flask import Blueprint, Response, g, request
from werkzeug.wsgi import FileWrapper

from pgfleet import exports, log, volume
from pgfleet.tokens import User
from pgfleet_api import messages, models, responses
from pgfleet_api.auth import authenticated
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.places import Places
from pgfleet_api.state import state

blueprint = Blueprint("files", __name__, url_prefix="/v1/files")

MEDIA = {"csv": "text/csv; charset=utf-8"}

#: Bytes handed to the server at once: a file that is no larger holds no thread while a slow client takes it.
PIECE = 1_048_576


@blueprint.get("")
@documented(
    "The caller's finished exports, newest first",
    "Made to be polled: send the ETag back in If-None-Match, and 304 says that nothing changed.",
    answers={200: list[models.File], 304: None},
)
@authenticated
def find(user: User) -> Response:
    with state().connections.take() as conn:
        if request.if_none_match:
            etag = f"{user.id}-{exports.version_of_owner(conn, user.id)}"
            if request.if_none_match.contains_weak(etag):
                return _cached(Response(status=304), etag)
        rows = exports.of_owner(conn, user.id)
    # From the rows themselves: an export finished since the look above must not hide behind a newer ETag.
    etag = f"{user.id}-{exports.version(rows)}"
    return _cached(messages.answer([responses.file(row) for row in rows]), etag)


@blueprint.get("/<filename>")
@documented(
    "Download an export",
    "An attachment; parts of it by Range.",
    answers={200: bytes, 206: bytes, 304: None},
    errors=(404, 412, 416),
)
@authenticated
def download(user: User, filename: str) -> Response:
    missing = Refused(404, f"No file exists with name: {filename[:200]}")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", filename):  # what the table's own check lets in
        raise missing
    with state().connections.take() as conn:
        row = exports.by_filename(conn, filename)
    if row is None or row["owner_id"] != user.id:
        raise missing
    etag = row["sha256"]
    if request.if_match and not request.if_match.contains(etag):
        raise Refused(412, f"The file {filename} is another than the one that If-Match names. Ask for it without.")
    if request.if_none_match.contains_weak(etag):  # before Range, which asks for a part of what the client lacks
        return _cached(Response(status=304), etag)
    try:
        file = volume.open_export(state().settings.export_dir, filename)
    except volume.NoSuchFile:
        log.get().error("file.missing", filename=filename, task=row["task_id"], request_id=g.request_id)
        raise Refused(404, f"The file {filename} is no longer on the volume. Ask for the export anew.") from None
    size = os.fstat(file.fileno()).st_size
    if size != row["bytes"]:
        file.close()
        log.get().error("file.damaged", filename=filename, expected=row["bytes"], bytes=size, request_id=g.request_id)
        raise Refused(404, f"The file {filename} is damaged. Ask for the export anew.")
    return _attachment(file, filename, size, etag, MEDIA.get(row["format"], "application/octet-stream"))


def _attachment(file: BinaryIO, filename: str, size: int, sha256: str, media: str) -> Response:
    pieces = _Pieces(file, state().downloads if size > PIECE else None)
    response = Response(pieces, content_type=media, direct_passthrough=True)
    response.content_length = size
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'  # nothing in it needs quoting
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Accept-Ranges"] = "bytes"
    _cached(response, sha256)
    # Judged already; Werkzeug takes If-Match: * for an ETag.
    environ = {k: v for k, v in request.environ.items() if k not in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")}
    try:
        response.make_conditional(environ, accept_ranges=_one_range(size), complete_length=size)
    except BaseException:
        pieces.close()
        raise
    return response


class _Pieces(FileWrapper):
    """The file's bytes, and a place of ``places`` as long as they are being taken; the server closes it."""

    def __init__(self, file: BinaryIO, places: Places | None) -> None:
        super().__init__(file, PIECE)
        self._places: Places | None = None
        if places is not None:
            try:
                places.take()
            except BaseException:
                file.close()
                raise
            self._places = places

    def close(self) -> None:
        super().close()
        places, self._places = self._places, None
        if places is not None:
            places.give_back()


def _one_range(size: int) -> bool:
    """Does the request ask for one part, in bytes? All else that a Range may say is passed over, as RFC 9110 (14.2) has it."""
    wanted = request.range
    if request.environ.get("HTTP_IF_RANGE", "").startswith("W/"):
        return False  # a weak validator never matches there (13.1.5)
    if request.method != "GET" or wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return False
    return wanted.ranges[0][0] >= -size  # the last so many, and these are all


def _cached(response: Response, etag: str) -> Response:
    """Let the client keep it, but ask every time; and let no proxy hand it to another user."""
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, no-cache"
    response.vary.add("Authorization")
    return response
