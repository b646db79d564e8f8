"""``pgfleet worker``."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from types import FrameType

import click

from pgfleet import log
from pgfleet.settings import from_env
from pgfleet_worker import forks, keeper
from pgfleet_worker.handler import OWN, installed, load, load_schedules
from pgfleet_worker.loop import Worker
from pgfleet_worker.outcome import trace
from pgfleet_worker.part import Part

#: Exit codes: stopped before all was settled; a fault of the worker's own (EX_SOFTWARE of sysexits.h).
EXIT_HURRIED = 1
EXIT_BROKEN = 70


def _names(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    names = tuple(name.strip() for part in value for name in part.split(",") if name.strip())
    return names or None


@click.command()
@click.option("--nickname", help="The name before the colon in the worker's nickname:UUID.")
@click.option(
    "--types", multiple=True, callback=_names, help="Task types to take, comma-separated; default: all it can."
)
@click.option("--concurrency", type=click.IntRange(1, 10_000), help="Tasks to run at once.")
@click.option("--handlers", multiple=True, callback=_names, help="Modules with handlers, comma-separated.")
@click.option("--only-targeted", is_flag=True, help="Take only tasks that name this node.")
@click.option("--no-schedules", is_flag=True, help="Fire no schedule, and leave the fleet's chores to others.")
@click.option("--no-listen", is_flag=True, help="Only poll: for a pooler in transaction mode, which loses LISTEN.")
def worker(
    nickname: str | None,
    types: tuple[str, ...] | None,
    concurrency: int | None,
    handlers: tuple[str, ...] | None,
    only_targeted: bool,
    no_schedules: bool,
    no_listen: bool,
) -> None:
    """Take tasks and do them, until SIGTERM or Ctrl-C."""
    settings = from_env(
        nickname=nickname,
        types=types,
        concurrency=concurrency,
        handlers=handlers,
        only_targeted=only_targeted or None,
        schedules=False if no_schedules else None,
    )
    # A handler may change the folder of the process.
    settings = replace(settings, export_dir=settings.export_dir.absolute())
    settings.require_database()
    log.configure(settings)
    sys.path.insert(0, "")  # --handlers names modules of the folder it is started in, as `python -m` would
    # The keeper is forked before any thread, and before others' modules bring what it has no use for; but after all that
    # every worker loads, which leaves its marks on 4 MB of pages: so they stay shared.
    importlib.import_module(OWN)
    installed()
    kept = keeper.fork(settings)
    handlers_by_type = load(settings.handlers, settings.types)
    if "csv_export" in handlers_by_type and not settings.export_dir.is_dir():
        log.get().warning(
            "volume.missing",
            folder=str(settings.export_dir.absolute()),
            hint="Exports fail here until it is there: mount it, set PGFLEET_EXPORT_DIR, or leave csv_export out of --types.",
        )
    process = Worker(
        settings,
        handlers_by_type,
        load_schedules(settings.handlers),
        listen=not no_listen,
        keeper=kept,
    )

    def end_within(seconds: float) -> None:
        # Even with Postgres hanging in the middle of a statement: an end that comes late is no end to a supervisor.
        last = threading.Timer(seconds + 3 * settings.database_timeout + 2, os._exit, [EXIT_HURRIED])
        last.daemon = True
        last.start()

    signals = itertools.count(1)

    def stop(signum: int, frame: FrameType | None) -> None:
        match next(signals):
            case 1:
                process.stop()
                end_within(settings.grace)
            case 2:
                process.hurry()
                end_within(0)
            case _:
                os._exit(EXIT_HURRIED)  # at once: its keeper gives up the lease, others take over

    def die(failed: threading.ExceptHookArgs) -> None:
        problem = failed.exc_type.__name__ if failed.exc_value is None else trace(failed.exc_value)
        name = failed.thread and failed.thread.name
        if not isinstance(failed.thread, Part):  # a handler's, which is no reason to lose all that runs beside it
            log.get().error("thread.failed", thread=name, problem=problem)
            return
        # A worker without its settler or heartbeat would hold tasks for ever; a dead one is rescued.
        log.get().critical("worker.broken", thread=name, problem=problem)
        os._exit(EXIT_BROKEN)

    threading.excepthook = die
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    forks.keep_to_itself(signal.SIGTERM, signal.SIGINT)
    # Ignored, as a handler's module may have it, the end of the handlers' processes would not be told.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process.run()
    # Threads that outlived the grace period must not keep the process: their tasks have been given back.
    with suppress(OSError, ValueError):  # a handler may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
