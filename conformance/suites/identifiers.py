"""Container ids: what has to work as a name, and what must never reach the file system."""

from __future__ import annotations

import os
from functools import partial

from conformance import leftovers
from conformance.case import Case
from conformance.registry import Suite

suite = Suite("identifiers")

GOOD = {
    "one-letter": "a",
    "hex-64": "0123456789abcdef" * 4,
    "punctuation": "A0_under.dot+plus-minus",
    "long": "L" + "o" * 110 + "ng",
}

BAD = {
    "empty": "",
    "dot": ".",
    "dot-dot": "..",
    "slash": "a/b",
    "parent": "../escaped",
    "absolute": "/tmp/escaped",
    "too-long": "x" * 1100,
}

STRANGE = {
    "space": "a b",
    "newline": "a\nb",
    "non-ascii": "contäiner",
    "shell": "a;b$(c)",
}


def _good(text: str, case: Case) -> None:
    container = case.container("sh", "-c", "echo lives", name=text)
    case.equal(container.run().out, "lives\n", "output")
    case.equal(container.state()["id"], text, "id in the state")
    container.delete()


def _bad(text: str, case: Case) -> None:
    before = leftovers.look(case.session)
    parent = case.runtime.root.parent
    names = set(os.listdir(parent))
    container = case.container("true", name="placeholder", own=True)
    container.config["linux"].pop("cgroupsPath")
    container.id = text
    outcome = container.try_create()
    if outcome.ok:
        container.cleanup()  # under the id that should have been refused
    if text:
        container.id = "placeholder"
    case.refused(outcome)
    case.expect(not container.pid_file.exists(), "a pid file was written")
    case.equal(leftovers.wait_clean(case.session, before), [], "left on the host")
    case.equal(set(os.listdir(parent)) - names - {"r", "bundles"}, set(), "new files beside the root")


for _name, _text in GOOD.items():
    suite.add(f"good-{_name}", "runtime.md#state", f"an id may look like this: {_text[:40]}", partial(_good, _text))
for _name, _text in BAD.items():
    suite.add(f"bad-{_name}", "runtime.md#create", f"an id must not be {_text[:30]!r}", partial(_bad, _text))
for _name, _text in STRANGE.items():
    suite.add(f"strange-{_name}", "callers: ids", f"an id like {_text!r} is refused", partial(_bad, _text))
