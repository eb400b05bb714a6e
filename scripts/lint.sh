#!/bin/sh
# The linters alone; the tests run them too (tests/test_style.py).
set -u
cd "$(dirname "$0")/.."
status=0
.venv/bin/python -m ruff check || status=1
.venv/bin/python -m ruff format --check || status=1
.venv/bin/python -m mypy || status=1
exit $status
