"""pgfleet: a task fleet on nothing but Postgres. What API, worker and CLI share."""

__version__ = "0.1.0"
