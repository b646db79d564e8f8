"""A process that a handler has forked ends with the handler's call: it is no worker, for all that it has of one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback


class Origin:
    """Tells the process in which it was made from its forks."""

    def __init__(self) -> None:
        #: Is this a fork of it?
        self.left = False
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        self.left = True

    def require(self) -> None:
        """Raises ``RuntimeError`` in a fork, whose words would be taken for those of whatever task runs by then."""
        if self.left:
            raise RuntimeError("A process that a handler has forked can't speak for its task: its own process has to.")


def keep_to_itself(*signals: signal.Signals) -> None:
    """This process has its own way with ``signals``; a fork of it, from its first moment on, is ended by them."""
    before = threading.local()

    def hold() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def leave() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        go_on()

    os.register_at_fork(before=hold, after_in_parent=go_on, after_in_child=leave)


def end(error: BaseException | None) -> None:
    """End this process as Python does, for ``error`` where something was raised, but run nothing of the worker's."""
    code: object = 1
    try:
        if error is None:
            code = 0
        elif isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code
        else:
            traceback.print_exception(error)
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else 1)
