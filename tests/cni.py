"""CNI as an engine runs it: the plugins of Debian, a configuration list, ADD and DEL in a namespace that plays host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.network_lab import Netns

PLUGINS = "/usr/lib/cni"


class Cni:
    """One configuration list on one host. `add` may be called for many pods; `remove` undoes what it made."""

    def __init__(self, host: Netns, directory: Path, name: str, *plugins: dict[str, Any]) -> None:
        """directory: for the leases of host-local, which plugins find as {"type": "host-local"} in `ipam`."""
        self._host = host
        self._name = name
        self._plugins = plugins
        self._directory = directory
        self._results: dict[tuple[str, str], tuple[str, Any, dict[str, Any]]] = {}

    def add(self, pod: Netns, container_id: str, interface: str = "eth0", **arguments: Any) -> dict[str, Any]:
        """Attach a pod; return the last result. arguments: runtimeConfig for plugins with that capability."""
        result: dict[str, Any] | None = None
        for plugin in self._plugins:
            result = self._call("ADD", plugin, pod.path, container_id, interface, result, arguments)
        assert result is not None
        self._results[container_id, interface] = (pod.path, result, arguments)
        return result

    def remove(self, container_id: str, interface: str = "eth0") -> None:
        """Detach a pod."""
        path, result, arguments = self._results.pop((container_id, interface))
        for plugin in reversed(self._plugins):
            self._call("DEL", plugin, path, container_id, interface, result, arguments)

    def _call(
        self,
        command: str,
        plugin: dict[str, Any],
        netns: str,
        container_id: str,
        interface: str,
        previous: Any,
        arguments: dict[str, Any],
    ) -> Any:
        network = {"cniVersion": "0.4.0", "name": self._name} | plugin
        capabilities = network.pop("capabilities", {})
        given = {name: value for name, value in arguments.items() if capabilities.get(name)}
        network |= {"runtimeConfig": given} if given else {}
        network |= {"prevResult": previous} if previous else {}
        if network.get("ipam", {}).get("type") == "host-local":
            network["ipam"] = network["ipam"] | {"dataDir": str(self._directory / "leases")}
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": interface,
            "CNI_PATH": PLUGINS,
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            ["nsenter", f"--net={self._host.path}", f"{PLUGINS}/{network['type']}"],
            input=json.dumps(network),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{network['type']} {command}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else previous
