"""The benchmarks: ``python3 run.py bench``. See ``__main__.py`` for the options, ``scenarios/`` for what is measured."""
