"""The order of all tests: files that take long begin first, so that no worker is left alone with one of them."""

from __future__ import annotations

import pytest

# The longest first; test_pod, whose ten machines boot at once, when the many of test_cri have gone. All others come
# after them, in the order of their names.
LONGEST = (
    "conformance/test_cri.py",
    "conformance/test_docker.py",
    "conformance/test_podman.py",
    "vm/test_pod.py",
    "conformance/test_oci.py",
    "conformance/test_conmon.py",
    "conformance/test_control.py",
    "vm/test_pod_failures.py",
    "vm/test_network_pods.py",
    "vm/test_network_life.py",
    "vm/test_storage_metadata.py",
    "vm/test_storage_attacks.py",
    "vm/test_storage_root.py",
    "vm/test_image_boot.py",
    "vm/test_storage_block.py",
    "vm/test_storage_volumes.py",
    "vm/test_machine_life.py",
    "engines/test_containerd_crash.py",
    "engines/test_containerd_ctr.py",
    "conformance/test_ctr.py",
    "host/test_image_build.py",
    "vm/test_agent_limits.py",
    "vm/test_agent_containers.py",
    "vm/test_machine_storage.py",
    "host/test_shim_bootstrap.py",
    "host/test_proxy_streams.py",
    "host/test_cli_failures.py",
    "vm/test_agent_storage.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take whole files, in this order."""
    rank = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(rank)))
