"""No example of a property has a time of its own: a loaded machine is no counterexample."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("vmpod", deadline=None)
settings.load_profile("vmpod")
