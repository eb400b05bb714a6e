"""Which files a kernel module needs, and in which order: what the image lists and the agent finds."""

from __future__ import annotations

from oci_runtime.guest.modules import find_with_dependencies
from oci_runtime.image.modules import list_agent_modules, parse_index

_DEP = """kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko \
kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
"""
LISTING = list_agent_modules(("failover", "virtio_net", "virtio", "9p"), ("virtio_ring",), parse_index(_DEP, "", ""))


def test_dependencies_come_first_without_those_that_are_loaded() -> None:
    assert find_with_dependencies(LISTING, "virtio_net") == [
        "kernel/net/core/failover.ko",
        "kernel/drivers/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko",
    ]


def test_a_module_without_dependencies() -> None:
    assert find_with_dependencies(LISTING, "failover") == ["kernel/net/core/failover.ko"]


def test_a_module_that_is_loaded_has_no_files() -> None:
    assert find_with_dependencies(LISTING, "virtio") == []


def test_a_module_that_the_image_does_not_have() -> None:
    assert find_with_dependencies(LISTING, "9p") == []
    assert find_with_dependencies(LISTING, "e1000") == []
    assert find_with_dependencies("", "e1000") == []
