"""The worker: claims tasks, runs their handlers, settles them. What a handler's author needs stands here."""

from pgfleet_worker.fleet import Fleet, schedule
from pgfleet_worker.handler import Cancelled, GiveUp, Release, RetryLater, handler
from pgfleet_worker.outcome import Export
from pgfleet_worker.task import Task

__all__ = ["Cancelled", "Export", "Fleet", "GiveUp", "Release", "RetryLater", "Task", "handler", "schedule"]
