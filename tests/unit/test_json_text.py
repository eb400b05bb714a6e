"""The light JSON module agrees with the standard library's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_runtime import json_text

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_VALUES)
def test_values_come_back(value: Any) -> None:
    assert json_text.loads(json_text.dumps(value)) == value
    assert json_text.dumps(value) == json.dumps(value, separators=(",", ":"))
    assert json_text.pretty(value) == json.dumps(value, indent=2)
    assert json_text.loads(json.dumps(value, indent=3).encode() + b" \n") == value


@given(_VALUES)
def test_the_fallback_says_the_same(value: Any) -> None:
    scan, encode = json_text._fallback()
    text = json_text.dumps(value)
    assert encode(value) == text
    assert scan(text, 0) == (value, len(text))


_WRONG = ["", " ", "{", "[1,]", "NaN", "-Infinity", '{"a":1}x', "\xa0{}", b"\xff", "[1 2]", "-", '"\x01"', "{}{}", "01"]
_PROGRAM = """
import sys
sys.path.insert(0, {repository!r})
from oci_runtime import json_text
assert "json" not in sys.modules
try:
    json_text.loads({text!r})
except ValueError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("text", _WRONG)
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        json_text.loads(text)


@pytest.mark.parametrize("text", ["{", "[1 2]", '"\x01"'])
def test_what_is_no_json_where_nobody_has_imported_json(text: str) -> None:
    program = _PROGRAM.format(repository=str(Path(__file__).parents[2]), text=text)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "JSONDecodeError\n", done.stderr


def test_depth_is_bounded() -> None:
    with pytest.raises(RecursionError):
        json_text.loads("[" * 100_000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", {1, 2}])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        json_text.dumps(value)
