"""``pgfleet up``: the whole fleet on one machine, in one folder, for as long as this one process lives.

Postgres of its own (or a given one), migrations, demo library, the API and workers as real processes, and one export
as a reader would ask for it. Whatever way the process ends, kill -9 included, nothing of it stays behind.
"""
