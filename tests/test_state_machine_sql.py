"""Whatever the fleet does, in whatever order: the SQL functions do what the model says, and no attempt is told of twice.

Workers and an operator act from connections of their own, among them zombies that settle under fences they lost long ago.
The examples are the same in every run; ``PGFLEET_TEST_EXAMPLES=1000`` asks for so many others, random ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.support.database import Database
from tests.support.fleet import Connection, lapse, value
from tests.support.model import MAX_CRASHES, Fence, Fleet, Task

TYPES = tuple(MAX_CRASHES)
MORE = int(os.environ.get("PGFLEET_TEST_EXAMPLES", "0"))
RUN = settings(
    phases=[Phase.generate, *([Phase.shrink] if MORE else [])],
    max_examples=MORE or 60,
    stateful_step_count=50,
    derandomize=not MORE,
    database=None,
    suppress_health_check=list(HealthCheck),
)

#: The columns that the model has, and whether a row says what no row may say, whatever came before.
ROWS = """
    select id, type, priority, max_retries, unique_key, status, worker, attempt, failure_count, crash_count,
           cancel_requested_at is not null, progress, checkpoint,
           (status in ('waiting', 'fresh') and not (cancel_requested_at, started_at, cpu_seconds, peak_memory) is null)
           or (status <> 'started' and eta is not null)
           or (status = 'success' and not (error, error_detail, checkpoint) is null)
    from tasks order by id
"""
HISTORY = """
    select task_id, attempt, worker, status from task_attempts
    union all select 0, 0, id, 'lost' from workers where lost_at is not null
    order by 1, 2, 3
"""
NEVER = "none:00000000-0000-4000-8000-000000000000"

some = st.integers(0, 999)
few = st.sampled_from([1, 3, 5])
types = st.sampled_from([TYPES, TYPES[:1], TYPES[1:]])


Act = Callable[..., None]
ACTS: dict[str, tuple[Act, tuple[str, ...], dict[str, st.SearchStrategy[Any]]]] = {}
OFTEN: list[str] = []


def act(weight: int, *statuses: str, **arguments: st.SearchStrategy[Any]) -> Callable[[Act], Act]:
    """Something that is done ``weight`` times as often as what weighs 1, mostly when a task has one of ``statuses``.

    Rules of equal chances seldom get anywhere: most of their steps are refused.
    """

    def register(method: Act) -> Act:
        ACTS[method.__name__] = method, statuses, arguments
        OFTEN.extend([method.__name__] * weight)
        return method

    return register


class Machine(RuleBasedStateMachine):
    """One fleet. An act is done in the database and in the model, and the answers are compared."""

    connections: tuple[Connection, ...]

    def __init__(self) -> None:
        super().__init__()
        self.operator, *self.sessions = self.connections
        self.operator.execute("delete from tasks; delete from workers; delete from worker_history")
        self.model = Fleet()
        self.names: list[str] = [NEVER]
        self.fences: list[tuple[str, Fence]] = []
        for _ in range(2):
            self.register()

    @rule(data=st.data(), what=st.deferred(lambda: st.sampled_from(OFTEN)), n=some)
    def something_happens(self, data: st.DataObject, what: str, n: int) -> None:
        there = {task.status for task in self.model.tasks.values()}
        if not self.fences or (n % 4 < 3 and not there.intersection(ACTS[what][1] or there)):
            what = "claim_from_the_front" if "fresh" in there else "create"
        method, _, arguments = ACTS[what]
        method(self, **{name: data.draw(strategy, name) for name, strategy in arguments.items()})

    def answer(self, conn: Connection, query: str, *args: Any) -> Any:
        """The first column of the answer's first row, or the SQLSTATE."""
        try:
            return value(conn, query, *args)
        except psycopg.Error as error:
            return error.sqlstate

    def session(self, worker: str) -> Connection:
        return self.sessions[self.names.index(worker) % len(self.sessions)]

    # Whom it is about: three times in four whom it can do something to, else anybody.

    def a_task(self, n: int, *statuses: str) -> int:
        ids = [t.id for t in self.model.tasks.values() if t.status in statuses] if n % 4 < 3 else []
        ids = ids or list(self.model.tasks)
        return ids[n // 4 % len(ids)]

    def a_worker(self, n: int, busy: bool = False) -> str:
        holding = {t.worker for t in self.model.tasks.values() if t.status == "started"}
        live = [name for name, state in self.model.workers.items() if state == "live" and (name in holding or not busy)]
        names = (live if n % 4 < 3 else []) or self.names
        return names[n // 4 % len(names)]

    def a_fence(self, n: int, called_off: bool = False) -> tuple[str, Fence]:
        """What a worker holds; or what one held once, or has never held."""
        held = [
            (t.worker, (t.id, t.attempt))
            for t in self.model.tasks.values()
            if t.worker and t.status == "started" and (t.called_off or not called_off)
        ]
        fences = (held if n % 4 < 3 else []) or self.fences
        worker, (id, attempt) = fences[n // 4 % len(fences)]
        if n % 8 == 2:
            return worker, (id, attempt - 1 + n // 8 % 2 * 2)
        return (self.a_worker(n // 16), (id, attempt)) if n % 16 == 4 else (worker, (id, attempt))

    # Creating

    @act(
        2,
        type=st.sampled_from(TYPES),
        priority=st.sampled_from([0, 0, 5]),
        max_retries=st.sampled_from([0, 1, 3]),
        pauses=st.booleans(),
        delayed=st.sampled_from([False, False, True]),
        key=st.sampled_from([None, None, "a", "b"]),
    )
    def create(self, type: str, priority: int, max_retries: int, pauses: bool, delayed: bool, key: str | None) -> None:
        query = (
            "select create_task(%s, 'data', 1, %s, run_at => case when %s then now() + interval '1 hour' end,"
            " max_retries => %s, retry_delay => %s, unique_key => %s)"
        )
        delay = "1 hour" if pauses else "0"
        id = self.answer(self.operator, query, type, priority, delayed, max_retries, delay, key)
        there = self.model.holder(type, key)
        if there is not None:
            assert id == there.id
            return
        assert id not in self.model.tasks
        self.model.tasks[id] = Task(
            id, type, priority, max_retries, key, "waiting" if delayed else "fresh", due=not delayed, pauses=pauses
        )

    def register(self) -> None:
        worker = f"w{len(self.names)}:00000000-0000-4000-8000-000000000000"
        self.names.append(worker)
        query = "select register_worker(%s, 'node', %s, 4, '1 hour', 'test')"
        assert self.answer(self.session(worker), query, worker, list(TYPES)) == ""
        self.model.workers[worker] = "live"

    # Workers

    def claimed(self, worker: str, wanted: str | list[tuple[int, int, str | None]], query: str, *args: Any) -> None:
        try:
            got: Any = self.session(worker).execute(query, [worker, *args]).fetchall()
        except psycopg.Error as error:
            got = error.sqlstate
        assert got == wanted
        if not isinstance(wanted, str):
            self.fences += [(worker, (id, attempt)) for id, attempt, _ in wanted]

    @act(4, "fresh", n=some, types=types, quantity=few)
    def claim_from_the_front(self, n: int, types: tuple[str, ...], quantity: int) -> None:
        worker = self.a_worker(n)
        query = "select id, attempt, checkpoint from claim_tasks(%s, %s, %s)"
        self.claimed(worker, self.model.claim(worker, types, quantity), query, list(types), quantity)

    @act(1, "fresh", n=some, types=types, quantity=few)
    def claim_behind_watermarks(self, n: int, types: tuple[str, ...], quantity: int) -> None:
        worker = self.a_worker(n)
        lanes = [(type, priority, 0) for type in types for priority in (0, 5)]
        query = (
            "select id, attempt, checkpoint from claim_tasks(%s, %s, %s,"
            " lane_types => %s, lane_priorities => %s, lane_after => %s)"
        )
        wanted = self.model.claim(worker, types, quantity)
        self.claimed(
            worker, wanted, query, list(types), quantity, *(list(column) for column in zip(*lanes, strict=True))
        )

    @act(2, "fresh", n=some, of=st.sets(some, min_size=1, max_size=4))
    def claim_by_ids(self, n: int, of: set[int]) -> None:
        worker, ids = self.a_worker(n), sorted({self.a_task(one, "fresh") for one in of})
        query = "select id, attempt, checkpoint from claim_tasks(%s, %s, 9, ids => %s)"
        self.claimed(worker, self.model.claim(worker, TYPES, 9, ids), query, list(TYPES), ids)

    @act(2, "started", n=some, with_others=st.booleans(), told=st.booleans())
    def finish(self, n: int, with_others: bool, told: bool) -> None:
        worker, fence = self.a_fence(n)
        of_task = {id: (id, attempt) for name, (id, attempt) in self.fences if name == worker and with_others}
        fences = list({**of_task, fence[0]: fence}.values())
        arrays = [id for id, _ in fences], [attempt for _, attempt in fences]
        costs = [0.5 if told and i % 2 else None for i in range(len(fences))]
        got = self.answer(
            self.session(worker), "select finish_tasks(%s, %s, %s, null, %s::float8[])", worker, *arrays, costs
        )
        assert got == self.model.finish(worker, fences)

    @act(3, "started", n=some, give_up=st.sampled_from([False, False, True]))
    def fail(self, n: int, give_up: bool) -> None:
        worker, fence = self.a_fence(n)
        query = "select status from fail_task(%s, %s, %s, 'broke', 'trace', %s, null, 0.5, 1024)"
        assert self.answer(self.session(worker), query, worker, *fence, give_up) == self.model.fail(
            worker, fence, give_up
        )

    @act(2, "started", n=some, delayed=st.booleans())
    def release(self, n: int, delayed: bool) -> None:
        worker, (id, attempt) = self.a_fence(n)
        query = "select release_tasks(%s, %s, %s, %s)"
        got = self.answer(self.session(worker), query, worker, [id], [attempt], "1 hour" if delayed else "0")
        assert got == self.model.release(worker, [(id, attempt)], delayed)

    @act(1, "started", n=some)
    def release_all_but_one(self, n: int) -> None:
        worker, (id, attempt) = self.a_fence(n)
        got = self.answer(self.session(worker), "select release_unheld(%s, %s, %s)", worker, [id], [attempt])
        assert got == self.model.release_unheld(worker, [(id, attempt)])

    @act(2, "started", n=some)
    def end_cancelled(self, n: int) -> None:
        worker, fence = self.a_fence(n, called_off=True)
        got = self.answer(self.session(worker), "select end_cancelled(%s, %s, %s, 0.5, 1024)", worker, *fence)
        assert (got or None) == self.model.end_cancelled(worker, fence)

    @act(1, "started", n=some, progress=st.sampled_from([None, 0.25, 0.5]))
    def progress(self, n: int, progress: float | None) -> None:
        worker, fence = self.a_fence(n)
        query = "select progress_task(%s, %s, %s, %s, 'step', '1 minute')"
        got = self.answer(self.session(worker), query, worker, *fence, progress)
        assert got == self.model.report(worker, fence, progress=progress)

    @act(2, "started", n=some, checkpoint=st.sampled_from(["one", "two"]))
    def checkpoint(self, n: int, checkpoint: str) -> None:
        worker, fence = self.a_fence(n)
        query = "select checkpoint_task(%s, %s, %s, %s)"
        got = self.answer(self.session(worker), query, worker, *fence, checkpoint)
        assert got == self.model.report(worker, fence, checkpoint=checkpoint)

    @act(1, "started", n=some)
    def ask_for_orders(self, n: int) -> None:
        worker = self.a_worker(n)
        wanted = self.model.orders(worker)
        fences = wanted if isinstance(wanted, str) else [list(fence) for fence in sorted(wanted)]
        query = "select array(select array[id, attempt] from unnest(cancelled, attempts) f(id, attempt)) from worker_orders(%s)"
        assert self.answer(self.session(worker), query, worker) == fences

    # Leases and time

    @act(3, "started", n=some, noticed=st.booleans())
    def lose_a_worker(self, n: int, noticed: bool) -> None:
        worker = self.a_worker(n, busy=True)
        if self.model.workers.get(worker) == "live":
            lapse(self.operator, worker)
            self.model.workers[worker] = "lapsed"
            self.register()
        if noticed:
            self.rescue(n)

    @act(1, n=some)
    def renew(self, n: int) -> None:
        worker = self.a_worker(n)
        got = self.answer(self.session(worker), "select place >= 0 from renew_worker(%s)", worker)
        assert got == (self.model.renew(worker) or True)

    @act(1, "started", n=some)
    def rescue(self, n: int) -> None:
        got = self.sessions[n % len(self.sessions)].execute("select id, status, worker, attempt from rescue_tasks()")
        assert set(got.fetchall()) == self.model.rescue()

    @act(1, "started", n=some)
    def leave(self, n: int) -> None:
        worker = self.a_worker(n)
        assert self.answer(self.session(worker), "select deregister_worker(%s)", worker) == ""
        if self.model.deregister(worker):
            self.register()

    @act(2, "waiting", n=some)
    def let_it_come_due(self, n: int) -> None:
        id = self.a_task(n, "waiting")
        self.operator.execute("update tasks set run_at = now() where id = %s and status = 'waiting'", [id])
        self.model.tasks[id].due = True
        if n % 2:
            self.promote()

    @act(1, "waiting")
    def promote(self) -> None:
        assert self.answer(self.sessions[0], "select promoted from promote_tasks()") == self.model.promote()

    # Operators

    @act(3, "started", n=some)
    def cancel(self, n: int) -> None:
        id = self.a_task(n, "started")
        assert self.answer(self.operator, "select cancel_task(%s)", id) == self.model.cancel(id)

    @act(3, "failure", "crashed", "cancelled", n=some, reset=st.booleans())
    def retry(self, n: int, reset: bool) -> None:
        id = self.a_task(n, "failure", "crashed", "cancelled")
        got = self.answer(self.operator, "select retry_task(%s, %s)", id, reset)
        assert (got or None) == self.model.retry(id, reset)

    @act(3, "crashed", n=some)
    def resume(self, n: int) -> None:
        id = self.a_task(n, "crashed")
        assert (self.answer(self.operator, "select resume_task(%s)", id) or None) == self.model.resume(id)

    @act(1, n=some, max_retries=st.sampled_from([0, 1, 5]))
    def configure(self, n: int, max_retries: int) -> None:
        id = self.a_task(n)
        got = self.answer(self.operator, "select configure_task(%s, %s)", id, max_retries)
        assert (got or None) == self.model.configure(id, max_retries)

    # After every step

    @invariant()
    def the_rows_are_the_models(self) -> None:
        assert self.operator.execute(ROWS).fetchall() == [
            (t.id, t.type, t.priority, t.max_retries, t.unique_key, t.status, t.worker, t.attempt, t.failure_count,
             t.crash_count, t.called_off, t.progress, t.checkpoint, False)
            for t in sorted(self.model.tasks.values(), key=lambda t: t.id)
        ]  # fmt: skip

    @invariant()
    def every_attempt_has_one_record_and_the_lost_are_known(self) -> None:
        tasks = self.model.tasks.values()
        lost = [(0, 0, worker, "lost") for worker, state in self.model.workers.items() if state == "lost"]
        kept = [(t.id, *one) for t in tasks for one in t.history]
        assert self.operator.execute(HISTORY).fetchall() == sorted(lost + kept)
        for task in tasks:
            assert sorted(task.attempts()) == list(range(1, task.attempt + 1))


@pytest.mark.timeout(600 if MORE else 180)
def test_whatever_workers_and_operators_do_the_rows_are_those_of_the_model(database: Database) -> None:
    conn = database.connect()
    for name, crashes in MAX_CRASHES.items():
        conn.execute("insert into task_types (name, max_crashes) values (%s, %s)", [name, crashes])
    connections = (conn, *(database.connect() for _ in range(3)))
    run_state_machine_as_test(type("M", (Machine,), {"connections": connections}), settings=RUN)
