"""All checks of the CRI; importing this registers them."""

from conformance.cri import many, pods, processes, streams, volumes

__all__ = ["many", "pods", "processes", "streams", "volumes"]
