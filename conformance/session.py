"""Everything that the checks of one run share: scratch space, the runtime, a pod, and what has to be undone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from conformance import bundle, host
from conformance.container import Container
from conformance.runtime import CheckFailed, Runtime

T = TypeVar("T")


@dataclass
class _Shared:
    value: Any = None
    error: Exception | None = None
    log: list[str] = field(default_factory=list)


@dataclass
class Options:
    """What the command line said, as far as suites and engines need it."""

    console_glob: str = ""
    external: dict[str, str] = field(default_factory=dict)


class Session:
    """One run of the conformance suites against one runtime.

    scratch: an empty directory on a real file system; its path should be short, sockets live in it.
    """

    def __init__(self, runtime: Runtime, scratch: Path, oci_version: str, options: Options) -> None:
        self.runtime = runtime
        self.scratch = scratch
        self.oci_version = oci_version
        self.options = options
        self.tag = f"cf{os.getpid():06x}"  # of one length: no tag is a part of another run's
        self.cgroup = f"/{self.tag}"
        self.creates = 0
        self.standalone = 0
        self.log: list[str] = []
        self._shared: dict[Callable[..., Any], _Shared] = {}
        self._undo: list[Callable[[], object]] = []
        self._names = 0
        self._pod: Container | None = None
        self._kept: list[Container] = []
        runtime.trace = self.trace
        self.busybox = scratch / "busybox"
        shutil.copyfile(bundle.BUSYBOX, self.busybox)
        self.busybox.chmod(0o755)

    def trace(self, text: str) -> None:
        """Add to the log of the check that is running."""
        self.log.append(text)

    def new_name(self, prefix: str) -> str:
        """Return a name that is unique in this run and carries the run's tag."""
        self._names += 1
        return f"{prefix}-{self.tag}-{self._names}"

    def count_create(self, member: bool) -> None:
        """Keep the statistics of creates; standalone ones cost a boot where each pod is a virtual machine."""
        self.creates += 1
        self.standalone += not member

    def defer(self, undo: Callable[[], object]) -> None:
        """Run `undo` at the end of the run, in reverse order of registration."""
        self._undo.append(undo)

    def keep(self, container: Container) -> Container:
        """Hold a container until the end of the run: its dead process stays for whoever waits for it."""
        self._kept.append(container)
        self.defer(container.cleanup)
        return container

    def kept_pids(self) -> set[int]:
        """Return the first processes of the containers that live as long as the run."""
        return {container.pid() for container in self._kept if container.pid_file.exists()}

    def shared(self, factory: Callable[[Session], T]) -> T:
        """Return what the factory made, calling it once per run; its failure is the failure of every check that asks.

        The log of the set-up is repeated in the log of each of them.
        """
        entry = self._shared.get(factory)
        if entry is None:
            entry = self._shared[factory] = _Shared()
            outer, self.log = self.log, entry.log
            try:
                entry.value = factory(self)
            except Exception as error:  # noqa: BLE001 - kept for every check that needs it
                entry.error = error
            finally:
                self.log = outer
        self.trace(f"[shared set-up: {(factory.__doc__ or factory.__name__).strip().splitlines()[0]}]")
        for line in entry.log:
            self.trace(line)
        if entry.error is not None:
            kind = CheckFailed if isinstance(entry.error, CheckFailed) else RuntimeError
            raise kind(f"shared set-up: {entry.error}") from entry.error
        value: T = entry.value
        return value

    def pod(self) -> Container:
        """Return the running sandbox container that members share; made anew if something ended it."""
        if self._pod is not None and host.is_alive(self._pod.pid()):
            return self._pod
        if self._pod is not None:
            self.trace(f"  the shared pod {self._pod.id} is dead; a new one is made")
            self._pod.cleanup()
        pod = Container(self, self.new_name("pod"), ("sleep", "100000"), member=False)
        pod.config["annotations"] |= {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.id,
        }
        self.keep(pod)
        pod.create().start()
        self._pod = pod
        return pod

    def close(self) -> None:
        """Undo everything; what fails is logged and does not stop the rest."""
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except (CheckFailed, OSError) as error:
                self.trace(f"clean-up: {error}")
