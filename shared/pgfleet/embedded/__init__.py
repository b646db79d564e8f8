"""A Postgres of pgfleet's own: only the binaries come from a wheel or the system, the launcher is this package.

It exists because the wheels' own launchers open every parent folder of the data to the world when run as root, take
one machine-wide lock, and leave a server behind when their owner is killed.
"""

from pgfleet.embedded.binaries import find_binaries
from pgfleet.embedded.errors import EmbeddedPostgresError
from pgfleet.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "find_binaries"]
