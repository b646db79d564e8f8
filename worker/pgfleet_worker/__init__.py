"""The worker: claims tasks, runs their handlers, settles them. What a handler's author needs stands here."""

from pgfleet_worker.handler import GiveUp, RetryLater, handler
from pgfleet_worker.outcome import Export
from pgfleet_worker.task import Task

__all__ = ["Export", "GiveUp", "RetryLater", "Task", "handler"]
