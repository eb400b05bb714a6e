"""`vmpod check --guest`: a real machine without a pod, and what it leaves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.engine import DEADLINE_S, VMPOD


def check_guest(config: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and items by name; nothing may be left of the machine."""
    before = set(Path("/run").glob("vmpod-check*"))
    argv = [VMPOD, "--config", str(config), "check", "--guest", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert set(Path("/run").glob("vmpod-check*")) == before
    assert "vmpod-check" not in Path("/proc/self/mountinfo").read_text()
    return done.returncode, {item["name"]: item for item in json.loads(done.stdout)["items"]}


def test_the_guest_has_what_containers_need(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[vm]\ndefault_memory_mib = 300\n")
    code, items = check_guest(config)
    assert code == 0, items
    for name in ("guest", "guest crun", "guest namespaces", "guest cgroups", "guest file systems", "guest seccomp"):
        assert items[name]["status"] == "ok", items[name]
    assert "cpu cpuset io memory pids" in items["guest cgroups"]["found"]
    assert "overlay" in items["guest file systems"]["found"]


def test_a_guest_that_does_not_answer_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[vm]\nboot_timeout_s = 1\nkernel_parameters = "init=/nothing rdinit=/nothing"\n')
    code, items = check_guest(config)
    assert code == 1 and items["guest"]["status"] == "missing" and items["qemu"]["status"] == "ok"
