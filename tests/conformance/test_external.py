"""The adapters for suites of others, on miniature ones that are called and answer as the real ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# A program of runtime-tools: told the runtime by RUNTIME, run in the checkout, answers with TAP.
PROGRAMS = {
    "good": """echo TAP version 13
[ -f runtimetest ] || echo "not ok 0 - not run in the checkout"
"$RUNTIME" state no-such-container 2>/dev/null && echo "not ok 1 - state of nothing" || echo "ok 1 - state of nothing"
echo "not ok 2 - selinux # SKIP not enabled"; echo 1..2""",
    "bad": 'echo "ok 1 - one"; echo "not ok 2 - two"; echo 1..2',
    "crash": "echo panic >&2; exit 2",
    # Those about hooks number no test: they are silent, or have a block with an error.
    "silent": "echo TAP version 13; echo 1..0",
    "silent-bad": """printf 'TAP version 13\\n  ---\\n  {\\n    "error": "no hook ran"\\n  }\\n  ...\\n1..0\\n'""",
    "expected": 'echo "ok 1 - one"; echo "not ok 2 - two"; echo 1..2',
    "unexpected": 'echo "not ok 1 - one"; echo "not ok 2 - two"; echo 1..2',
}
DEVIATIONS = """[[deviation]]
runtime = "*"
check = ["validation.expected", "validation.unexpected"]
message = "1 of 2 tests failed: not ok 2 *"
reason = "two is too much"
"""
CONTEST = """case $1 in
list) printf 'lifecycle\\nhooks\\n'; exit ;;
esac
[ -f bundle.tar.gz ] || exit 66
while [ $# -gt 0 ]; do
    case $1 in --runtime) runtime=$2 ;; --runtimetest) tester=$2 ;; --tests) group=$2 ;; esac
    shift
done
[ -x "$runtime" ] && [ -f "$tester" ] || exit 66
echo "# Start group $group"
case $group in
lifecycle) "$runtime" --version >/dev/null && echo "1 / 2 : version : ok"; echo "2 / 2 : skipped : skipped" ;;
hooks) echo "1 / 2 : one : ok"; echo "2 / 2 : two : not ok"; echo "	the hook did not run" ;;
esac
echo "# End group $group" """
CRITEST = """for word; do
    case $word in --ginkgo.junit-report=*) report=${word#*=} ;; --ginkgo.focus=*) area=${word#*=} ;; esac
done
case " $* " in *" --runtime-handler vmpod "*) ;; *) exit 3 ;; esac
[ "$area" = Networking ] && failure='<failure message="no port"/>'
echo "<testsuites><testsuite><testcase name='$area works'>$failure</testcase></testsuite></testsuites>" >"$report"
[ -z "$failure" ]"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(report: Path, *arguments: str) -> dict[str, dict[str, str]]:
    """The results of a run, by check."""
    argv = [sys.executable, "-m", "conformance", "--runtime", "runc", "--report", str(report), *arguments]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    (record,) = report.glob("*.json")
    return {result["id"]: result for result in json.loads(record.read_text())["results"]}


@pytest.mark.root
def test_programs_of_runtime_tools(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name, text in PROGRAMS.items():
        script(checkout / "validation" / name / f"{name}.t", text)
    (checkout / "runtimetest").write_text("")
    (tmp_path / "deviations.toml").write_text(DEVIATIONS)
    relative = os.path.relpath(checkout, REPOSITORY)
    arguments = ["--external", f"validation={relative}", "--deviations", str(tmp_path / "deviations.toml")]
    found = run(tmp_path / "report", "--engine", "validation", *arguments)
    assert {name.removeprefix("validation."): result["status"] for name, result in found.items()} == {
        "good": "pass",
        "bad": "fail",
        "crash": "fail",
        "silent": "pass",
        "silent-bad": "fail",
        "expected": "deviation",
        "unexpected": "fail",
    }
    assert "no hook ran" in found["validation.silent-bad"]["message"]
    assert "not ok 2 - two" in found["validation.bad"]["message"] and "panic" in found["validation.crash"]["message"]


@pytest.mark.root
def test_groups_of_contest(tmp_path: Path) -> None:
    contest, tester = script(tmp_path / "contest", CONTEST), script(tmp_path / "runtimetest", "true")
    external = ["--external", f"contest={contest}", "--external", f"runtimetest={tester}"]
    arguments = [sys.executable, "-m", "conformance", "--runtime", "runc", "--engine", "contest", *external]
    done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "bundle.tar.gz" in done.stderr
    (tmp_path / "bundle.tar.gz").write_text("")
    found = run(tmp_path / "report", "--engine", "contest", *external)
    assert {name: result["status"] for name, result in found.items()} == {
        "contest.lifecycle": "pass",
        "contest.hooks": "fail",
    }
    assert "two : not ok" in found["contest.hooks"]["message"]


@pytest.mark.root
def test_areas_of_critest(tmp_path: Path) -> None:
    critest = script(tmp_path / "critest", CRITEST)
    external = [f"critest={critest}", "endpoint=unix:///nowhere", "handler=vmpod"]
    words = [word for entry in external for word in ("--external", entry)]
    found = run(tmp_path / "report", "--engine", "critest", *words)
    failed = {name for name, result in found.items() if result["status"] != "pass"}
    assert len(found) == 7 and failed == {"critest.networking"}
    assert "Networking works" in found["critest.networking"]["message"]
