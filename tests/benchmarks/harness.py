"""What all scenarios share: rows of results, rounds in which everybody takes turns, the peers, the log."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import peers as peers_module
from tests.benchmarks.peers import Peer
from tests.benchmarks.processes import BenchmarkFailed
from tests.benchmarks.server import OPTIONS, SEGMENTS, Database, Server

PGFLEET = "pgfleet"
LIMIT = "the limit"


@dataclass(frozen=True)
class Row:
    """One figure: the median of ``values`` and their spread; ``reached`` is None where no target was set."""

    who: str
    metric: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    #: Of how many values ``value`` is the median.
    of: int = 1
    target: str = ""
    reached: bool | None = None
    note: str = ""


@dataclass
class Result:
    """What a scenario found: rows for the table, charts for its plot (see ``plot.py``)."""

    rows: list[Row] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def add(
        self, who: str, metric: str, values: Sequence[float] | float, unit: str = "", *, target: str = "",
        reached: Callable[[float], bool] | None = None, note: str = "",
    ) -> float:  # fmt: skip
        """Add the median of ``values`` as a row, and answer it. ``reached`` judges it against ``target``."""
        many = [float(values)] if isinstance(values, int | float) else [float(v) for v in values]
        middle = statistics.median(many)
        low, high = (min(many), max(many)) if len(many) > 1 else (None, None)
        verdict = None if reached is None else bool(reached(middle))
        self.rows.append(Row(who, metric, middle, unit, low, high, len(many), target, verdict, note))
        return middle

    def miss(self, who: str, metric: str, why: str) -> None:
        """A row that could not be measured stays, and says why."""
        self.rows.append(Row(who, metric, float("nan"), note=why))

    def bars(self, title: str, unit: str, values: Mapping[str, Sequence[float]], *, log: bool = False) -> None:
        """A chart of one bar each, with its spread."""
        bars = {who: list(v) for who, v in values.items() if v}
        self.charts.append({"kind": "bars", "title": title, "unit": unit, "values": bars, "log": log})

    def lines(
        self, title: str, x: str, unit: str, values: Mapping[str, Sequence[tuple[float, float]]], *, log: bool = False
    ) -> None:
        """A chart of one line each, of (x, y)."""
        lines = {who: [list(point) for point in v] for who, v in values.items() if v}
        self.charts.append({"kind": "lines", "title": title, "x": x, "unit": unit, "values": lines, "log": log})

    def as_json(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "charts": self.charts, "detail": self.detail}


@dataclass
class Bench:
    """One call of the suite."""

    env: Path
    peers: list[Peer]
    #: What was asked for; None: each part's own.
    asked: int | None
    quick: bool
    failures: list[str] = field(default_factory=list)
    peer_settings: dict[str, Any] = field(default_factory=dict)
    _why: dict[str, str] = field(default_factory=dict)
    _server: Server | None = None

    def why(self, who: str) -> str:
        """Why ``who`` has no figure, for the note of its row."""
        return self._why.get(who, "not measured")

    @property
    def server(self) -> Server:
        """The run's Postgres, started when first asked for."""
        if self._server is None:
            self._server = Server(segments=self.size(SEGMENTS, 0))
        return self._server

    def close(self) -> None:
        if self._server is not None:
            self._server.__exit__(None, None, None)
        self._server = None

    @contextmanager
    def other_server(self, **options: str) -> Iterator[Server]:
        """A server with other settings, for one scenario; the usual one is stopped meanwhile."""
        self.close()
        with Server({**OPTIONS, **options}, segments=self.size(SEGMENTS, 0)) as server:
            yield server

    def size(self, full: int, quick: int) -> int:
        """How many: the one or, in a smoke run, the other."""
        return quick if self.quick else full

    def rounds(self, most: int = 3) -> int:
        """How often all take turns in a part whose default is ``most``: a run of everything is to take an hour."""
        return self.asked or (1 if self.quick else most)

    def say(self, text: str) -> None:
        """Progress, on stderr: stdout belongs to the table."""
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    def turns(
        self, contestants: Mapping[str, Callable[[], float | None]], what: str, most: int = 3
    ) -> dict[str, list[float]]:
        """Everybody once a round, :meth:`rounds` times; answers each one's figures.

        One that fails is left out of further rounds, said so, and counted; the others go on.
        """
        figures: dict[str, list[float]] = {who: [] for who in contestants}
        failed: set[str] = set()
        rounds = self.rounds(most)
        for number in range(1, rounds + 1):
            for who, run in contestants.items():
                if who in failed:
                    continue
                try:
                    figure = run()
                except (BenchmarkFailed, peers_module.PeerError) as error:
                    failed.add(who)
                    self._why[who] = f"failed: {str(error).splitlines()[0]}"
                    self.failures.append(f"{what}: {who}: {error}")
                    self.say(f"{what} {number}/{rounds}: {who} FAILED: {error}")
                    continue
                if figure is not None:
                    figures[who].append(figure)
                    self.say(f"{what} {number}/{rounds}: {who}: {figure:,.4g}")
        return figures

    def peer(self, peer: Peer, action: peers_module.Action, database: Database, timeout: float, **options: Any) -> Any:
        """One action of a peer's adapter; remembers the settings that it says it used."""
        answer = peers_module.run(peer, action, database.url, env=self.env, timeout=timeout, **options)
        if "settings" in answer:
            self.peer_settings[peer.name] = answer["settings"]
        if action == "drain":
            believable(peer, [answer])
        return answer

    @contextmanager
    def peer_database(self, peer: Peer, n: int = 0) -> Iterator[Database]:
        """A database with the peer's schema and ``n`` of its no-op tasks, settled down.

        Made once a run and copied for each round, as pgfleet's backlogs are; the variants of a peer share it.
        """

        def make(database: Database) -> None:
            self.peer(peer, "setup", database, 120)
            if n:
                began = time.monotonic()
                self.peer(peer, "enqueue", database, 120 + n / 1000, n=n)
                self.say(f"{peer.name}: {n:,} enqueued in {time.monotonic() - began:.0f} s")
            database.settle_down()

        with self.server.copy((peer.script, n), make, migrated=False) as (database, _):
            yield database


def believable(peer: Peer, answers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a drain whose handlers ran much more than the database is said to have settled.

    Either the adapter miscounts or the peer forgets; a tiny figure in the table would claim that we know which.
    """
    handled, settled = sum(a["handled"] for a in answers), max(a["n"] for a in answers)
    if not any(a["complete"] for a in answers) and settled * 2 < handled:
        raise BenchmarkFailed(
            f"{peer.name}: its handlers ran {handled:,} tasks, its tables say {settled:,} are settled"
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def growth(points: Sequence[tuple[float, float]]) -> float:
    """How much the straight line through ``points`` (least squares) rises over their span, relative to their mean."""
    if len(points) < 3:
        return float("nan")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    mean = statistics.fmean(ys)
    slope = statistics.linear_regression(xs, ys).slope
    return slope * (xs[-1] - xs[0]) / mean if mean else 0.0
