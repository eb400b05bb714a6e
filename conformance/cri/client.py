"""A client of the container runtime interface: one method per call, and helpers for what every check does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from conformance.cri.proto import runtime_pb2 as cri

CALL_S = 180.0
_POLL_S = 0.05


class CriClient:
    """One connection to the runtime service of an engine."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def call(self, method: str, timeout_s: float = CALL_S, **fields: Any) -> Any:
        """Call a method of RuntimeService with a request made of `fields`. Raises: grpc.RpcError."""
        request = getattr(cri, f"{method}Request")(**fields)
        response_type = getattr(cri, f"{method}Response")
        invoke: Callable[..., Any] = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        return invoke(request, timeout=timeout_s)

    def run_pod(self, config: cri.PodSandboxConfig, handler: str = "") -> str:
        """Run a pod sandbox and return its id."""
        return str(self.call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id)

    def create(self, pod: str, config: cri.ContainerConfig, pod_config: cri.PodSandboxConfig) -> str:
        """Create a container and return its id."""
        response = self.call("CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
        return str(response.container_id)

    def start(self, container: str) -> None:
        """Start a container."""
        self.call("StartContainer", container_id=container)

    def exec(self, container: str, *command: str, timeout: int = 0) -> cri.ExecSyncResponse:
        """Run a command in a container to its end. timeout: seconds, 0 for none."""
        response: cri.ExecSyncResponse = self.call(
            "ExecSync", container_id=container, cmd=list(command), timeout=timeout
        )
        return response

    def status(self, container: str) -> cri.ContainerStatus:
        """The status of a container."""
        status: cri.ContainerStatus = self.call("ContainerStatus", container_id=container).status
        return status

    def pod_status(self, pod: str) -> cri.PodSandboxStatus:
        """The status of a pod."""
        status: cri.PodSandboxStatus = self.call("PodSandboxStatus", pod_sandbox_id=pod).status
        return status

    def wait_exited(self, container: str, timeout_s: float = 60.0) -> cri.ContainerStatus:
        """Wait until a container has ended and return its status. Raises: TimeoutError."""
        until = time.monotonic() + timeout_s
        while True:
            status = self.status(container)
            if status.state == cri.CONTAINER_EXITED:
                return status
            if time.monotonic() > until:
                raise TimeoutError(f"container {container} is in state {status.state} after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def stop(self, container: str, timeout: int = 10) -> None:
        """Stop a container. timeout: seconds between the stop signal and SIGKILL."""
        self.call("StopContainer", container_id=container, timeout=timeout)

    def remove(self, container: str) -> None:
        """Remove a container."""
        self.call("RemoveContainer", container_id=container)

    def stop_pod(self, pod: str) -> None:
        """Stop a pod and all its containers."""
        self.call("StopPodSandbox", pod_sandbox_id=pod)

    def remove_pod(self, pod: str) -> None:
        """Remove a pod, stopping it first where that is needed."""
        self.call("RemovePodSandbox", pod_sandbox_id=pod)
