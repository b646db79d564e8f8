"""The ``pgfleet`` command: one noun a file, each loaded only when it is asked for."""
