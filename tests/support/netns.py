"""Hosts of the tests' own: network namespaces on one switch, whose cables can be pulled.

A real link that is cut acknowledges nothing and tells nobody, which no proxy can show. Needs root and ``ip``; nothing
of the machine's own network is touched, and the addresses (of RFC 5737, for documentation) exist in the namespaces only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

NETWORK = "192.0.2"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespaces(Exception):
    """This machine doesn't let us make network namespaces; the message says why."""


@dataclass(frozen=True)
class Host:
    """One namespace with one cable to the switch."""

    name: str
    address: str
    namespace: str
    port: str  # the switch's end of its cable
    switch: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and the processes it starts in the block, are on this host: sockets opened here belong to it."""
        here = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)

    def cut(self) -> None:
        """Pull its cable out of the switch: what it sends goes nowhere, and its own end looks as before."""
        _ip("-n", self.switch, "link", "set", self.port, "nomaster")

    def join(self) -> None:
        """Put the cable back."""
        _ip("-n", self.switch, "link", "set", self.port, "master", "switch")


class Network:
    """A switch with the hosts named; a context manager that leaves nothing behind. Raises :class:`NoNamespaces`."""

    def __init__(self, *names: str) -> None:
        if os.geteuid() != 0:
            raise NoNamespaces("network namespaces need root")
        if shutil.which("ip") is None:
            raise NoNamespaces("no `ip` here (Debian: apt install iproute2)")
        run = f"pgf{secrets.token_hex(3)}"
        self._switch = f"{run}-switch"
        self._namespaces: list[str] = []
        self.hosts: dict[str, Host] = {}
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")
            for number, name in enumerate(names, 1):
                self.hosts[name] = self._host(f"{run}-{name}", name, number)
        except subprocess.CalledProcessError as error:
            self.close()
            raise NoNamespaces(f"`{' '.join(error.cmd)}` is refused here: {error.stderr.strip()}") from None

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the namespaces; the cables go with them, as soon as no process is left on the hosts."""
        for namespace in reversed(self._namespaces):
            _ip("netns", "del", namespace)
        self._namespaces.clear()

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)

    def _host(self, namespace: str, name: str, number: int) -> Host:
        self._add(namespace)
        host = Host(name, f"{NETWORK}.{number}", namespace, f"port{number}", self._switch)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", host.port, "netns", self._switch)
        _ip("-n", namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", self._switch, "link", "set", host.port, "up")
        host.join()
        return host


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
