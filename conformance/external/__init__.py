"""Adapters that run suites of others, where they are on the machine, and report their programs as checks."""
