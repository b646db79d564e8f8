"""A reader's side of the main job, over HTTP: ask for an export, poll, download."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgfleet.up.errors import UpError

#: Seconds between two polls; BookLogr's own client waits 2.
POLL = 0.05
#: Seconds an export may take.
PATIENCE = 120.0
#: Bytes of the file kept to be shown.
BEGINNING = 65_536


@dataclass(frozen=True)
class Download:
    """A finished export as it was downloaded: ``beginning`` is its first bytes, ``seconds`` the time from the POST."""

    task_id: int
    filename: str
    rows: int
    size: int
    worker: str
    beginning: bytes
    seconds: float


class Client:
    """Calls of one user to one API, over one connection that is made anew when it was closed."""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def is_healthy(self) -> bool:
        """Does the API answer yet?"""
        try:
            return self._request("GET", "/health").status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            self._connection.close()

    def export(self, check: Callable[[], None]) -> Download:
        """The caller's books as CSV. ``check`` is called at every poll, and may raise. Raises :class:`UpError`."""
        began = time.monotonic()
        created = self._json("POST", "/v1/tasks", {"type": "csv_export"})
        id = int(created["task_id"])
        while (task := self._json("GET", f"/v1/tasks/{id}"))["status"] != "success":
            check()
            if task["status"] in ("failure", "crashed", "cancelled"):
                raise UpError(f"The export ended as {task['status']} (task {id}).", detail=task["error"])
            if time.monotonic() - began > PATIENCE:
                raise UpError(f"The export is still {task['status']} after {PATIENCE:g} seconds (task {id}).")
            time.sleep(POLL)
        result = task["result"]
        beginning = self._download(result["filename"], result["sha256"])
        took = time.monotonic() - began
        return Download(id, result["filename"], result["rows"], result["bytes"], task["worker"], beginning, took)

    def close(self) -> None:
        self._connection.close()

    def _download(self, filename: str, sha256: str) -> bytes:
        answer = self._request("GET", f"/v1/files/{filename}")
        if answer.status != 200:
            raise _refused("GET", f"/v1/files/{filename}", answer.status, answer.read())
        digest, beginning = hashlib.sha256(), b""
        while piece := answer.read(BEGINNING):
            digest.update(piece)
            beginning = beginning or piece
        if digest.hexdigest() != sha256:
            raise UpError(f"The download of {filename} differs from what the worker wrote.")
        return beginning

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._request(method, path, body)
        content = answer.read()
        if answer.status not in (200, 202):
            raise _refused(method, path, answer.status, content)
        return json.loads(content)

    def _request(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        return self._connection.getresponse()


def _refused(method: str, path: str, status: int, content: bytes) -> UpError:
    return UpError(f"The API answered {status} to {method} {path}.", detail=content.decode(errors="replace")[:2000])
