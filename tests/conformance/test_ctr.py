"""The selected checks of ctr, on an established runtime and on vmpod."""

from __future__ import annotations

from tests.conformance.runs import on_crun, on_vmpod

test_control = on_crun("ctr")
test_vmpod = on_vmpod("ctr")
