"""The handlers that the benchmarks run: work of a known length, plain and async."""

from __future__ import annotations

import asyncio
import time

from pgfleet_worker import Task, handler


@handler("noop")
def noop(task: Task) -> None:
    """Nothing."""


@handler("noop_async")
async def noop_async(task: Task) -> None:
    """Nothing, on the event loop."""


@handler("sleep_1ms")
def sleep_1ms(task: Task) -> None:
    """A millisecond of waiting."""
    time.sleep(0.001)


@handler("sleep_20ms")
def sleep_20ms(task: Task) -> None:
    """Twenty milliseconds of waiting."""
    time.sleep(0.020)


@handler("sleep_1ms_async")
async def sleep_1ms_async(task: Task) -> None:
    """A millisecond of waiting, on the event loop."""
    await asyncio.sleep(0.001)


@handler("sleep_20ms_async")
async def sleep_20ms_async(task: Task) -> None:
    """Twenty milliseconds of waiting, on the event loop."""
    await asyncio.sleep(0.020)
