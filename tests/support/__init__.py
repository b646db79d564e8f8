"""What the tests share: a server for the run, a database for each test, real processes, waiting without luck."""
