"""A process that runs the tasks of one slot, one at a time: ``python -m pgfleet_worker.child WIRE REINS PARENT``.

Started by :mod:`pgfleet_worker.children`, which says over the socket WIRE what to run and hears there what became of it.
SIGTERM means "end this task", but only where the worker has written a byte to the pipe REINS first: a supervisor that
signals all processes of a service (systemd does) must not end what the worker still gives a grace. It lives no longer than
its worker: Linux kills it with it, and elsewhere the pipe's end tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pgfleet import log
from pgfleet.settings import Settings
from pgfleet_worker import forks
from pgfleet_worker.course import fraction_of
from pgfleet_worker.handler import Cancelled, Handler, marked
from pgfleet_worker.loans import Loans
from pgfleet_worker.outcome import awaited, of_exception, of_return, trace
from pgfleet_worker.task import Task
from pgfleet_worker.usage import Meter, cpu_seconds, peak_memory
from pgfleet_worker.wire import Message, Wire, pack, unpack_settings

_PR_SET_PDEATHSIG = 1
#: Short of memory, the kernel kills what has most of it and of these points (0 to 1000): a child rather than its worker.
OOM_SCORE = 500
#: Seconds between two progress messages that differ in numbers alone: the worker sends one a second on.
PAUSE = 0.01


class Child(Loans):
    """The process's end of the wire, and what a task's handler is lent here."""

    def __init__(self, wire: Wire, reins: int, settings: Settings) -> None:
        super().__init__(settings)
        self._wire = wire
        self._reins = reins
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._task: Task | None = None
        self._talking = False
        self._speech = threading.Lock()
        self._origin = forks.Origin()
        self._fresh = True
        self._told: tuple[float, str | None] = (0.0, None)
        os.set_blocking(reins, False)
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the worker; not ignored by what a handler starts
        signal.signal(signal.SIGTERM, self._asked)
        forks.keep_to_itself(signal.SIGTERM, signal.SIGINT)

    def serve(self) -> None:
        """Run tasks until the worker closes the wire."""
        self._wire.send({"cpu": cpu_seconds(), "peak": peak_memory()})
        while (message := self._wire.receive()) is not None:
            self._wire.send(self._run(message))

    def _run(self, message: Message) -> Message:
        id, type, text, created_by, attempt, saved = message["task"]
        task = Task(id, type, text, created_by, attempt, self, saved)
        self._told = (0.0, None)
        try:
            handler = self._handler(message["module"], type)
        except BaseException as error:
            return self._spent(Meter(fresh=False)) | pack(of_exception(task, error))
        self._wire.send({"begun": id})  # from here on its end is the task's doing
        meter = Meter(fresh=self._fresh)
        self._fresh = False
        try:
            said = self._attempt(task, handler)
        except Cancelled as error:  # asked in between two statements of ours
            said = {"stopped": trace(error)}
        return self._spent(meter) | said

    def _attempt(self, task: Task, handler: Handler) -> Message:
        try:
            self._task = task
            try:
                value = self._call(handler, task)
            finally:
                self._talking = True
                with self._speech:  # what a thread of the handler's is saying still counts; what it says later doesn't
                    self._task = None
                self._talking = False
            return pack(of_return(task, value))
        except BaseException as error:
            if task.cancelled:
                return {"stopped": trace(error)}
            return pack(of_exception(task, error))

    def _call(self, handler: Handler, task: Task) -> Any:
        try:
            value = awaited(handler.function(task))
        except BaseException as error:
            if self._origin.left:
                forks.end(error)
            raise
        if self._origin.left:
            forks.end(None)
        return value

    def _spent(self, meter: Meter) -> Message:
        cpu, peak = meter.read()
        return {"cpu": cpu, "peak": peak, "total": cpu_seconds()}

    def _handler(self, module: str, type: str) -> Handler:
        found = self._handlers.get((module, type))
        if found is None:
            found = self._handlers[module, type] = marked(importlib.import_module(module))[type]
        return found

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        try:
            if not os.read(self._reins, 1):
                return
        except BlockingIOError:
            return  # not by our worker
        task = self._task
        if task is not None:
            task.cancelled = True
            if not self._talking:  # a message must not be torn: raised after it
                raise Cancelled

    @contextmanager
    def _message(self, task: Task) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        if main:
            self._talking = True
        try:
            with self._speech:  # a handler may have threads of its own
                if self._task is not task:  # even one that outlives it: the wire is another task's now
                    raise Cancelled("its attempt is over")
                yield
        finally:
            if main:
                self._talking = False
        if task.cancelled:
            raise Cancelled(task.why)

    # -- what a task asks of its process

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None:
        """See :meth:`Task.progress`."""
        self._origin.require()
        now, last = time.perf_counter(), self._told
        if now - last[0] >= PAUSE or step != last[1] or done >= total:
            self._told = now, step
            fraction = fraction_of(done, total)
            with self._message(task):
                self._wire.send({"progress": fraction, "step": step})

    def checkpoint(self, task: Task, text: str) -> None:
        """See :meth:`Task.checkpoint`."""
        self._origin.require()
        with self._message(task):
            self._wire.send({"checkpoint": text})
            answer = self._wire.receive()
        if answer is None:
            raise SystemExit
        if "error" in answer:
            raise RuntimeError(f"The checkpoint was refused: {answer['error']}")
        if "cancelled" in answer:
            task.cancelled = True
            raise Cancelled(answer["cancelled"])


def _die_with(parent: int, reins: int) -> None:
    """End when the worker does, however it does."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without it: the pipe tells, too
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        poll = select.poll()
        poll.register(reins, 0)  # its end is always told
        poll.poll()
        os.killpg(os.getpid(), signal.SIGKILL)  # with whatever the handler has started

    threading.Thread(target=watch, name="worker-watch", daemon=True).start()


def _die_first() -> None:
    """Be the one that the kernel kills for want of memory, before the worker."""
    points = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        points.write_text(str(max(OOM_SCORE, int(points.read_text()))))


def main() -> None:
    """What the worker starts."""
    wire, reins, parent = (int(argument) for argument in sys.argv[1:])
    _die_with(parent, reins)
    _die_first()
    end = Wire(socket.socket(fileno=wire))
    told = end.receive()
    if told is None:
        return
    sys.path[:] = told["path"]
    settings = unpack_settings(told["settings"])
    log.configure(settings)
    Child(end, reins, settings).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads a handler has left behind


if __name__ == "__main__":
    main()
