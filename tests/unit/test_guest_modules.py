"""Which files a kernel module needs, and in which order."""

from __future__ import annotations

from oci_runtime.guest.modules import find_with_dependencies

LISTING = """kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/other_virtio_net.ko: kernel/x.ko
"""


def test_dependencies_come_first() -> None:
    assert find_with_dependencies(LISTING, "virtio_net") == [
        "kernel/net/core/failover.ko",
        "kernel/drivers/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko",
    ]


def test_a_module_without_dependencies() -> None:
    assert find_with_dependencies(LISTING, "failover") == ["kernel/net/core/failover.ko"]


def test_a_module_that_the_image_does_not_have() -> None:
    assert find_with_dependencies(LISTING, "e1000") == []
    assert find_with_dependencies("", "e1000") == []
