"""What the checks of the CRI share: a private containerd whose handler is the runtime under test, and pods to use."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from conformance.case import Case
from conformance.cri.client import CriClient
from conformance.cri.containerd import BUSYBOX_IMAGE, Containerd, Handler
from conformance.cri.proto import runtime_pb2 as cri
from conformance.runtime import CheckFailed
from conformance.session import Session

HANDLER = "tested"
# What the kubelet asks for by default: the pod's network and ipc, processes of the container's own.
OWN_PROCESSES = cri.NamespaceOption(pid=cri.CONTAINER)
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 100000 & wait $!; done")


def handler_for(binary: str, name: str) -> Handler:
    """The handler of a runtime binary: a shim by its path, an OCI runtime under runc's shim."""
    if Path(binary).name.startswith("containerd-shim-"):
        return Handler(name, str(Path(binary).absolute()), pod_annotations=("io.vmpod.*",))
    return Handler(name, "io.containerd.runc.v2", {"BinaryName": f'"{binary}"'})


@dataclass
class Pod:
    """A pod of the lab with its configuration."""

    lab: Lab
    id: str
    config: Any

    def create(self, *command: str, **fields: Any) -> str:
        """Create a container from the busybox image. fields: of ContainerConfig; `linux` as a message."""
        lab = self.lab
        name = fields.pop("name", "") or lab.new_name("c")
        fields.setdefault("linux", cri.LinuxContainerConfig())
        security = fields["linux"].security_context
        if not security.HasField("namespace_options"):
            security.namespace_options.CopyFrom(OWN_PROCESSES)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=BUSYBOX_IMAGE),
            command=list(command or FOREVER),
            log_path=f"{name}.log",
            **fields,
        )
        return lab.client.create(self.id, config, self.config)

    def run(self, *command: str, **fields: Any) -> str:
        """Create and start a container."""
        container = self.create(*command, **fields)
        self.lab.client.start(container)
        return container

    def log(self, container: str) -> list[tuple[str, str, str]]:
        """The log of a container: (stream, tag, text) of each line."""
        path = self.lab.client.status(container).log_path
        lines = Path(path).read_text(errors="replace").splitlines()
        return [(stream, tag, text) for _time, stream, tag, text in (_four(line) for line in lines)]

    def wait_log(self, container: str, text: str, timeout_s: float = 30.0) -> None:
        """Wait for a line that contains `text`. Raises: CheckFailed."""
        until = time.monotonic() + timeout_s
        while not any(text in line for _stream, _tag, line in self.log(container)):
            if time.monotonic() > until:
                raise CheckFailed(f"the log of {container} has no {text!r}: {self.log(container)}")
            time.sleep(0.05)

    def out(self, container: str, *command: str) -> str:
        """Run a command in a container and return its output. Raises: CheckFailed unless it ends with 0."""
        result = self.lab.client.exec(container, *command)
        if result.exit_code:
            raise CheckFailed(f"{command}: exit code {result.exit_code}: {result.stderr.decode()}")
        return result.stdout.decode()

    def remove(self) -> None:
        """Stop and remove the pod with all its containers."""
        self.lab.client.stop_pod(self.id)
        self.lab.client.remove_pod(self.id)


class Lab:
    """A running containerd. is_vm: the runtime's containers have another kernel than this host."""

    def __init__(self, directory: Path, binary: str, tag: str) -> None:
        shims = str(Path(binary).absolute().parent)
        handlers = (
            handler_for(binary, HANDLER),
            handler_for(binary, "untrusted"),
            Handler("runc", "io.containerd.runc.v2"),
        )
        self.engine = Containerd(directory, handlers, shim_path=shims)
        self.logs = directory / "logs"
        self.tag = tag
        self._names = 0
        self._shared: Pod | None = None
        self.engine.start()
        self.engine.load_images()
        self.client = CriClient(self.engine.socket)

    def new_name(self, prefix: str) -> str:
        """A name that nobody else has."""
        self._names += 1
        return f"{prefix}{self._names}"

    def pod_config(self, **fields: Any) -> Any:
        """The configuration of a new pod. fields: of PodSandboxConfig."""
        name = fields.pop("name", "") or self.new_name("pod")
        linux = fields.pop("linux", None) or cri.LinuxPodSandboxConfig()
        linux.cgroup_parent = f"/{self.tag}/{name}"
        if not linux.security_context.HasField("namespace_options"):
            linux.security_context.namespace_options.CopyFrom(OWN_PROCESSES)
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="lab"),
            hostname=fields.pop("hostname", name),
            log_directory=str(self.logs / name),
            linux=linux,
            **fields,
        )

    def run_pod(self, handler: str = HANDLER, **fields: Any) -> Pod:
        """Run a pod."""
        config = self.pod_config(**fields)
        return Pod(self, self.client.run_pod(config, handler), config)

    def shared_pod(self) -> Pod:
        """A pod for checks that need any; made anew if something ended it."""
        if self._shared is not None and self.client.pod_status(self._shared.id).state == cri.SANDBOX_READY:
            return self._shared
        self._shared = self.run_pod(labels={"app": "x"}, annotations={"note": "kept"})
        return self._shared

    def info(self, pod: Pod) -> dict[str, Any]:
        """What the engine knows of a pod beyond its status."""
        response = self.client.call("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)
        return dict(json.loads(response.info["info"]))

    def close(self) -> None:
        """Remove all pods, then the daemon."""
        for item in self.client.call("ListPodSandbox").items:
            self.client.stop_pod(item.id)
            self.client.remove_pod(item.id)
        self.client.close()
        self.engine.remove()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            top = hierarchy / self.tag
            for directory, _names, _files in os.walk(top, topdown=False):
                Path(directory).rmdir()
        shutil.rmtree(self.logs, ignore_errors=True)


def lab(session: Session) -> Lab:
    """a private containerd with the runtime under test"""
    made = Lab(session.scratch / "c", session.runtime.path, session.tag)
    session.defer(made.close)
    return made


def lab_of(case: Case) -> Lab:
    """The lab of a check."""
    return case.shared(lab)


def wide_pod(session: Session) -> Pod:
    """a pod with one pid namespace for all its containers, and a sysctl"""
    context = cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.POD))
    linux = cri.LinuxPodSandboxConfig(security_context=context, sysctls={"net.ipv4.ip_forward": "1"})
    return session.shared(lab).run_pod(linux=linux)


def container_of(case: Case, *command: str, **fields: Any) -> tuple[Pod, str]:
    """The shared pod and a new container in it, removed behind the check. fields: as for `Pod.create`."""
    pod = lab_of(case).shared_pod()
    container = pod.run(*command, **fields)
    case.defer(lambda: lab_of(case).client.remove(container))
    return pod, container


def pod_of(case: Case, **fields: Any) -> Pod:
    """A pod of a check's own, removed behind it."""
    pod = lab_of(case).run_pod(**fields)
    case.defer(pod.remove)
    return pod


def refused(case: Case, action: Callable[[], object], pattern: str, code: grpc.StatusCode | None = None) -> str:
    """Fail unless the call is refused in words that match; return the words."""
    try:
        action()
    except grpc.RpcError as error:
        text = str(error.details())
        case.log(f"refused: {error.code()} {text}")
        case.matches(text, pattern, "the refusal")
        if code is not None:
            case.equal(error.code(), code, "the code of the refusal")
        return text
    raise CheckFailed("the call succeeded, but has to be refused")


def _four(line: str) -> tuple[str, str, str, str]:
    parts = line.split(" ", 3)
    if len(parts) != 4:
        raise CheckFailed(f"not a line of a CRI log: {line!r}")
    return parts[0], parts[1], parts[2], parts[3]
