"""The worker's end of one child: a slot's thread talks to it here, and the child does the work. Its own end is ``child.py``."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.handler import Cancelled
from pgfleet_worker.outcome import Failure, Outcome, of_stop
from pgfleet_worker.task import Surroundings, Task
from pgfleet_worker.usage import MAXRSS_UNIT
from pgfleet_worker.wire import Message, Wire, pack_settings, unpack

#: Seconds that a child has to end in by itself, once its wire is closed.
LAST_WORDS = 1.0


class Died(Exception):
    """The child has ended before it said what became of its task; ``begun``: in the midst of it."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Child:
    """One process. Its slot's thread calls :meth:`run` and :meth:`close`, others :meth:`ask` and :meth:`force`."""

    def __init__(self, settings: Settings, log: Logger, say: Callable[..., None]) -> None:
        self._log = log
        self._say = say
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._task: Task | None = None
        self._status: int | None = None  # of its end, as wait() tells it
        self._usage: resource.struct_rusage | None = None
        self._cpu = 0.0
        self._least_peak = 0
        self._begun = False
        self.asked = False
        self.served = 0
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.settimeout(None)  # whatever a handler's module has made the default
        reins, self._reins = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgfleet_worker.child", str(theirs.fileno()), str(reins), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), reins),
                process_group=0,  # so that what a handler has started goes with it
            )
        except BaseException:
            ours.close()
            os.close(self._reins)
            raise
        finally:
            theirs.close()
            os.close(reins)
        self.pid = self._process.pid
        say(child=self.pid)
        self._wire = Wire(ours, self._wait)
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        # Its end is told by the system itself: the wire may be held open by what a handler has forked.
        self._end = -1
        with contextlib.suppress(OSError, AttributeError):  # an old kernel, another system
            self._end = os.pidfd_open(self.pid)
            self._poll.register(self._end, select.POLLIN)
        self._init = {"path": sys.path, "settings": pack_settings(settings)}
        log.debug("child.started", pid=self.pid)

    @property
    def is_alive(self) -> bool:
        """Has it not ended by itself since its last task?"""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def run(self, task: Task, module: str, lent: Surroundings, begun: Callable[[Task], None]) -> Outcome:
        """Have it run one task; ``begun(task)`` is called when it has begun with that. Raises :class:`Died`."""
        self._begun = False
        with self._lock:
            self._task = task
        if task.cancelled:  # before there was anybody to ask
            self.ask(task)
        try:
            if self._init:
                self._send(self._init)
                ready = self._receive()
                self._cpu, self._least_peak = ready["cpu"], ready["peak"]
                self._init = {}
            row = [task.id, task.type, task.text, task.created_by, task.attempt, task.saved_text]
            self._send({"task": row, "module": module})
            while "total" not in (message := self._receive()):
                if "begun" in message:
                    self._begun = True
                    begun(task)
                else:
                    self._serve(task, message, lent)
        finally:
            with self._lock:
                self._task = None
        self.served += 1
        self._cpu = message["total"]
        if "stopped" in message:
            return of_stop(task, message["stopped"], message["cpu"], message["peak"])
        outcome = unpack(task, message, message["cpu"], message["peak"])
        if task.cancelled and isinstance(outcome, Failure):
            return of_stop(task, outcome.detail, message["cpu"], message["peak"])
        return outcome

    def _serve(self, task: Task, message: Message, lent: Surroundings) -> None:
        if "progress" in message:
            with contextlib.suppress(Cancelled):  # it is told by other means
                lent.progress(task, message["progress"], 1.0, message["step"])
            return
        try:
            lent.checkpoint(task, message["checkpoint"])
        except Cancelled:
            answer: Message = {"cancelled": task.why}
        except Exception as error:
            answer = {"error": str(error)}
        else:
            answer = {}
        self._send(answer)

    def ask(self, task: Task) -> None:
        """SIGTERM, where it runs ``task``."""
        with self._lock:
            if self._task is not task or self._status is not None or self.asked:
                return
            self.asked = True
            with contextlib.suppress(OSError):
                os.write(self._reins, b"\0")
                os.kill(self.pid, signal.SIGTERM)

    def force(self, task: Task) -> None:
        """SIGKILL, where it runs ``task``; to whatever it has started, too."""
        with self._lock:
            if self._task is task and self._status is None:
                self._kill()

    def kill(self) -> None:
        """SIGKILL, whatever it does; to whatever it has started, too."""
        with self._lock:
            if self._status is None:
                self._kill()

    def post_mortem(self, task: Task) -> Outcome:
        """What became of ``task``, in which it died."""
        self.close()
        assert self._status is not None and self._usage is not None  # noqa: S101, PT018
        usage = self._usage
        cpu = max(0.0, usage.ru_utime + usage.ru_stime - self._cpu)
        # The peak of its whole life, and where it began as a copy of its worker, not less than the worker's.
        peak = usage.ru_maxrss * MAXRSS_UNIT
        known = peak if peak > self._least_peak else None
        if task.cancelled:
            return of_stop(task, f"It did not heed SIGTERM; {self.how}", cpu, known)
        detail = self.how
        if self._process.returncode == -signal.SIGKILL:
            detail += " Nobody here sent it: most often it is the kernel's, for want of memory."
        fence = task.id, task.attempt, task.worker, task.type
        return Failure(*fence, self.how, detail, cpu_seconds=cpu, peak_memory=known)

    @property
    def how(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        if code >= 0:
            return f"Its process ended with exit code {code}."
        try:
            name = f" ({signal.Signals(-code).name})"
        except ValueError:
            name = ""
        return f"Its process ended with signal {-code}{name}."

    def close(self) -> None:
        """Let it end, or make it; returns when it is gone."""
        with self._closing:
            if self._status is None:
                self._close()

    def _close(self) -> None:
        self._wire.close()
        until = time.monotonic() + LAST_WORDS
        while self.is_alive and time.monotonic() < until:
            time.sleep(0.002)
        with self._lock:
            self._kill()
            self._say(reaped=self.pid)  # while nobody else can have the number
            _, self._status, self._usage = os.wait4(self.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(self._status)
            os.close(self._reins)
            if self._end >= 0:
                os.close(self._end)
        self._log.debug("child.ended", pid=self.pid, tasks=self.served, exit_code=self._process.returncode)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _send(self, message: Message) -> None:
        try:
            self._wire.send(message)
        except OSError as error:
            raise Died(self._begun) from error

    def _receive(self) -> Message:
        message = self._wire.receive()
        if message is None:
            raise Died(self._begun)
        return message

    def _wait(self) -> bool:
        ready = {fd for fd, _ in self._poll.poll()}
        return ready != {self._end}  # what it said before its end is read first


class Grip:
    """The reins of a task in a child."""

    __slots__ = ("_child", "_task")

    def __init__(self, child: Child, task: Task) -> None:
        self._child = child
        self._task = task

    def ask(self) -> None:
        """SIGTERM."""
        self._child.ask(self._task)

    def force(self) -> bool:
        """SIGKILL."""
        self._child.force(self._task)
        return True
