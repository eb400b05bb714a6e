"""The drop-ins for CRI-O: valid TOML, keys that CRI-O knows, handlers that do not share state."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "crio.conf.d").glob("*.conf"))
# crio.conf(5), the tables crio.runtime.runtimes.*
KEYS = {
    *("runtime_path", "runtime_type", "runtime_root", "runtime_config_path", "privileged_without_host_devices"),
    *("allowed_annotations", "monitor_path", "monitor_cgroup", "monitor_env", "container_min_memory"),
}


def handlers(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())["crio"]["runtime"]["runtimes"]
    return found


def test_one_drop_in_for_each_interface() -> None:
    kinds = [handler["runtime_type"] for path in FILES for handler in handlers(path).values()]
    assert kinds == ["oci", "vm"]
    roots = [handler["runtime_root"] for path in FILES for handler in handlers(path).values()]
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_keys_and_values(path: Path) -> None:
    for name, handler in handlers(path).items():
        assert set(handler) <= KEYS
        assert handler["privileged_without_host_devices"] is True
        assert handler["runtime_path"].startswith("/")
        assert f"`{name}`" in (ROOT / "docs" / "crio.md").read_text()
        if handler["runtime_type"] == "vm":
            # The pattern that CRI-O demands of a shim's file name.
            assert re.fullmatch(r"containerd-shim-[A-Za-z0-9\-+]+-v2", Path(handler["runtime_path"]).name)
            assert "monitor_path" not in handler


def test_optional_keys_in_comments_are_keys_too() -> None:
    for path in FILES:
        commented = re.findall(r"^# (\w+) = ", path.read_text(), re.MULTILINE)
        assert set(commented) <= KEYS
