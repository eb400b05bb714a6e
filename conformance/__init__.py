"""Conformance runner: drives any OCI runtime binary, alone or under an engine, and reports check by check.

It knows nothing of a runtime but the path of its binary: no import from the runtime's own code, no peeking into its
state directory. Every check runs on runc and crun first; what both fail is a wrong check.
"""
