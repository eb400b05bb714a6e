"""JUnit XML as continuous-integration servers read it: one test suite per suite, one test case per check."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import groupby

from conformance import results
from conformance.results import Result, RunRecord

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(record: RunRecord) -> str:
    """Return the JUnit document of a run."""
    top = ElementTree.Element("testsuites", name=record.runtime, time=f"{record.seconds:.3f}")
    for suite, group in groupby(sorted(record.results, key=lambda result: result.suite), lambda result: result.suite):
        members = list(group)
        element = ElementTree.SubElement(
            top,
            "testsuite",
            name=suite,
            tests=str(len(members)),
            failures=str(sum(result.status in (results.FAIL, results.SURPRISE) for result in members)),
            errors=str(sum(result.status == results.ERROR for result in members)),
            skipped=str(sum(result.status in (results.SKIP, results.DEVIATION) for result in members)),
            time=f"{sum(result.seconds for result in members):.3f}",
            timestamp=record.started,
        )
        for result in members:
            _add_case(element, record, result)
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(top, encoding="unicode") + "\n"


def _add_case(parent: ElementTree.Element, record: RunRecord, result: Result) -> None:
    case = ElementTree.SubElement(
        parent,
        "testcase",
        classname=f"{record.runtime}.{result.suite}",
        name=result.id.partition(".")[2],
        time=f"{result.seconds:.3f}",
    )
    if result.status in (results.FAIL, results.SURPRISE):
        child = ElementTree.SubElement(case, "failure", message=_clean(result.message or result.reason))
        child.text = _clean(result.log)
    elif result.status == results.ERROR:
        child = ElementTree.SubElement(case, "error", message=_clean(result.message))
        child.text = _clean(result.log)
    elif result.status in (results.SKIP, results.DEVIATION):
        ElementTree.SubElement(case, "skipped", message=_clean(f"{result.status}: {result.reason}"))
    if result.console:
        ElementTree.SubElement(case, "system-out").text = _clean(result.console)


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
