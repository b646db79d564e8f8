"""The load of the ``http`` benchmark: keep-alive clients that each send the same request again and again.

One process, one thread, epoll and raw sockets: about 20 µs a request, so that the server and not the load is measured.
Run as ``python -m tests.benchmarks.http_load HOST PORT CLIENTS SECONDS STATUS < request``; prints a line of JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def load(host: str, port: int, clients: int, seconds: float, status: int, request: bytes) -> dict[str, float]:
    """Requests/s, and the median and 99th percentile of their latency in seconds. Fails at the first other status."""
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    began: dict[int, float] = {}
    pending: dict[int, bytes] = {}
    for _ in range(clients):
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    expected = b"HTTP/1.1 %d" % status
    latencies: list[float] = []
    start = time.perf_counter()
    end = start + seconds
    for fd, sock in sockets.items():
        began[fd] = time.perf_counter()
        sock.sendall(request)
    open_requests = clients
    while open_requests:
        for fd, _ in epoll.poll():
            data = pending.pop(fd, b"") + sockets[fd].recv(65_536)
            if not data:
                raise RuntimeError("the server closed a connection")
            if not _whole(data):
                pending[fd] = data
                continue
            if not data.startswith(expected):
                raise RuntimeError(f"expected status {status}, got {data[:500]!r}")
            now = time.perf_counter()
            latencies.append(now - began[fd])
            if now < end:
                began[fd] = now
                sockets[fd].sendall(request)
            else:
                open_requests -= 1
    elapsed = time.perf_counter() - start
    latencies.sort()
    return {
        "per_second": len(latencies) / elapsed,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
    }


def _whole(data: bytes) -> bool:
    """Is this a whole response? All of ours carry Content-Length."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = data[:head].lower().find(b"content-length:")
    if at < 0:
        raise RuntimeError(f"no Content-Length in {data[:500]!r}")
    stop = data.find(b"\r\n", at)
    return len(data) >= head + 4 + int(data[at + 15 : stop])


if __name__ == "__main__":
    host, port, clients, seconds, status = sys.argv[1:]
    print(json.dumps(load(host, int(port), int(clients), float(seconds), int(status), sys.stdin.buffer.read())))
