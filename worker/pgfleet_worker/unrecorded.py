"""Outcomes that Postgres didn't take: which may pass later, which never will, and what to record instead."""

from __future__ import annotations

import psycopg

from pgfleet.errors import DatabaseAway
from pgfleet_worker.outcome import CalledOff, Failure, Outcome, Released

UNRECORDABLE = "The task's outcome could not be recorded; its operators see why."


def may_pass(error: Exception) -> bool:
    """May the same statement succeed later (Postgres away, its disk full, a right to be granted), or never?

    Never: a value that the tables refuse or the types can't hold, and anything that is not Postgres's error.
    """
    if isinstance(error, DatabaseAway):
        return True
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return False
    return (error.sqlstate or "")[:2] not in ("21", "22", "23", "54") and error.sqlstate not in ("42883", "42804")


def is_one_at_fault(error: Exception) -> bool:
    """Is it one row of many that keeps a statement from passing now (a lock, a conflict, a time limit)?"""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ("40", "55", "57")


def instead(outcome: Outcome, error: Exception) -> Outcome | None:
    """What to record of an outcome that can't be recorded: a failure, in words that fit anywhere; then a release."""
    fence = outcome.id, outcome.attempt, outcome.worker, outcome.type
    if isinstance(outcome, Released):
        return None
    if isinstance(outcome, CalledOff):  # nobody has asked for that, says the row
        return Released(*fence, reason="called off, but nobody has asked for that")
    if isinstance(outcome, Failure) and outcome.error == UNRECORDABLE:
        return Released(*fence, 60.0, "its outcome can't be recorded")
    return Failure(*fence, UNRECORDABLE, ascii(str(error))[:2000], give_up=True)
