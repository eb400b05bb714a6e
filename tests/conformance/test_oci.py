"""The selected checks of the command line alone, on vmpod; test_control.py has the control."""

from __future__ import annotations

from tests.conformance.runs import on_vmpod

test_vmpod = on_vmpod("oci")
