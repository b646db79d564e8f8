"""What one application holds: its settings, connections, notifier, verifier, counters, and places for slow clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from flask import current_app

from pgfleet import tokens
from pgfleet.settings import Settings
from pgfleet_api.connections import Connections
from pgfleet_api.counters import Counters
from pgfleet_api.creation import Creator
from pgfleet_api.notifier import Notifier
from pgfleet_api.places import Places

KEY = "pgfleet"


@dataclass(frozen=True)
class State:
    """Made by ``create_app``; ``verifier`` is None in single-user mode."""

    settings: Settings
    connections: Connections
    notifier: Notifier
    creator: Creator
    verifier: tokens.Verifier | None
    counters: Counters
    bodies: Places
    downloads: Places
    metrics: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Send the waiting notifications and close the connections; for the end of the process."""
        self.notifier.stop()
        self.connections.close()


def state() -> State:
    """The state of the application that serves this request."""
    return cast(State, current_app.extensions[KEY])
