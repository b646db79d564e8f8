"""The handlers that come with pgfleet."""
