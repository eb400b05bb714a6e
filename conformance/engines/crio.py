"""Pods as CRI-O makes them: pinned namespaces, and config.json files that a real CRI-O wrote, adapted to this host."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from pathlib import Path

from conformance import host
from conformance.bundle import Config, make_rootfs, write_config
from conformance.engines.conmon_driver import Monitor, Places, read_log, start_conmon
from conformance.runtime import CheckFailed, Outcome
from conformance.session import Session

GOLDEN = Path(__file__).parents[2] / "tests/data/configs"
PAUSE = "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 1000 & wait $!; done\n"
NAMESPACES = {"network": "net", "ipc": "ipc", "uts": "uts"}
# In the order of their numbers in linux/capability.h.
CAPABILITY_NAMES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)


def own_capabilities() -> set[str]:
    """Return the capabilities that this process has, by name."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return {name for number, name in enumerate(CAPABILITY_NAMES) if mask >> number & 1}
    return set()


class Pod:
    """The parts of a pod that CRI-O prepares before any create: namespaces, /dev/shm, files of /etc."""

    def __init__(self, session: Session, places: Places, hostname: str = "pod1") -> None:
        self.session = session
        self.places = places
        self.name = session.new_name("pod")
        self.id = hashlib.sha256(self.name.encode()).hexdigest()
        self.directory = session.scratch / self.name
        self.hostname = hostname
        self.sandbox: CrioContainer | None = None
        (self.directory / "shm").mkdir(parents=True)
        host.mount("shm", str(self.directory / "shm"), "tmpfs", data="size=65536k,mode=1777")
        session.defer(lambda: host.umount(str(self.directory / "shm")))
        for name, text in (("resolv.conf", "nameserver 192.0.2.53\n"), ("hostname", hostname + "\n")):
            (self.directory / name).write_text(text)
        self._pin()

    def _pin(self) -> None:
        """Make network, ipc and uts namespaces and bind them to files, as CRI-O's pinns does."""
        script = "hostname $0; ip link set lo up; echo made; read line"
        holder = subprocess.Popen(
            ["unshare", "--net", "--ipc", "--uts", "sh", "-c", script, self.hostname],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        for kind in NAMESPACES.values():
            path = self.namespace_path(kind)
            path.touch()
            host.mount(f"/proc/{holder.pid}/ns/{kind}", str(path), flags=host.MS_BIND)
            self.session.defer(functools.partial(host.umount, str(path)))
        holder.communicate(b"\n")

    def namespace_path(self, kind: str) -> Path:
        """Return the pinned namespace file of a kind as /proc names it."""
        return self.directory / f"{kind}ns"

    def container(self, golden: str, *args: str) -> CrioContainer:
        """Return a container from a recorded configuration; `args` replace its command."""
        return CrioContainer(self, golden, args)


class CrioContainer:
    """One container (or the sandbox) of a pod, driven by conmon and by calls as crio makes them."""

    def __init__(self, pod: Pod, golden: str, args: tuple[str, ...]) -> None:
        self.pod = pod
        self.session = pod.session
        self.is_sandbox = golden.startswith("sandbox")
        name = pod.name if self.is_sandbox else self.session.new_name("ctr")
        self.id = pod.id if self.is_sandbox else hashlib.sha256(name.encode()).hexdigest()
        self.directory = self.session.scratch / f"{name}-{'s' if self.is_sandbox else 'c'}"
        self.bundle = self.directory / "userdata"
        self.bundle.mkdir(parents=True)
        self.rootfs = self.directory / "merged"
        make_rootfs(self.rootfs, self.session.busybox)
        (self.rootfs / "pause").write_text(PAUSE)
        (self.rootfs / "pause").chmod(0o755)
        self.pid_file = self.bundle / "pidfile"
        self.log = self.directory / "ctr.log"
        self.config = self._adapt(golden)
        if args:
            self.config["process"]["args"] = list(args)
        self.session.defer(self.cleanup)

    def _adapt(self, golden: str) -> Config:
        text = (GOLDEN / f"cri-o-config-{golden}.json").read_text()
        annotations = json.loads(text)["annotations"]
        text = text.replace(annotations["io.kubernetes.cri-o.ContainerID"], self.id)
        text = text.replace(annotations["io.kubernetes.cri-o.SandboxID"], self.pod.id)
        config: Config = json.loads(text)
        config["ociVersion"] = self.session.oci_version
        config["root"]["path"] = str(self.rootfs)
        config["linux"]["cgroupsPath"] = f"{self.session.cgroup}/slice-{self.pod.name}/crio-{self.id}"
        if config["process"].get("oomScoreAdj", 0) < 0 and "CAP_SYS_RESOURCE" not in own_capabilities():
            config["process"].pop("oomScoreAdj")
        for key, names in config["process"].get("capabilities", {}).items():
            config["process"]["capabilities"][key] = [name for name in names if name in own_capabilities()]
        for mount in config["mounts"]:
            if mount["type"] == "bind":
                mount["source"] = str(self._source(mount["destination"]))
        for entry in config["linux"]["namespaces"]:
            if entry.get("path"):
                entry["path"] = str(self._namespace(entry["type"], entry["path"]))
        return config

    def _source(self, destination: str) -> Path:
        """Return the host's side of a bind mount, made when it is missing."""
        shared = {"/dev/shm": "shm", "/etc/resolv.conf": "resolv.conf", "/etc/hostname": "hostname"}
        if destination in shared:
            return self.pod.directory / shared[destination]
        path = self.directory / ("source" + destination.replace("/", "-"))
        if destination.startswith(("/etc/", "/run/.")):
            path.write_text("of the host\n")
        else:
            path.mkdir()
        return path

    def _namespace(self, kind: str, recorded: str) -> Path:
        if kind in NAMESPACES:
            return self.pod.namespace_path(NAMESPACES[kind])
        if recorded.startswith("/proc/") and self.pod.sandbox is not None:
            return Path(f"/proc/{self.pod.sandbox.pid()}/ns/{kind}")
        return self.directory / f"{kind}-of-target"

    def create(self, *flags: str) -> Monitor:
        """Have conmon create the container; the pid in the answer is -1 for a failure."""
        if self.is_sandbox:
            self.pod.sandbox = self
        write_config(self.bundle, self.config)
        self.session.count_create(not self.is_sandbox)
        return start_conmon(self.session, self.pod.places, self.id, self.bundle, self.pid_file, self.log, *flags)

    def must_create(self, *flags: str) -> CrioContainer:
        """Create. Raises CheckFailed with what conmon says."""
        monitor = self.create(*flags)
        if monitor.pid < 0:
            raise CheckFailed(f"create through conmon: {monitor.message}")
        return self

    def must_start(self) -> CrioContainer:
        """Start. Raises CheckFailed."""
        return self.must("start", self.id)

    def call(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        """Call the runtime as crio does."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/run/user/0", "CRI_O_EXTERNAL": "1"}
        return self.session.runtime.call(*arguments, stdin=stdin, environment=environment, cwd=Path("/"))

    def must(self, *arguments: str) -> CrioContainer:
        """Call the runtime. Raises CheckFailed."""
        outcome = self.call(*arguments)
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        return self

    def state(self) -> Config:
        """Return the runtime's state. Raises CheckFailed."""
        outcome = self.call("state", self.id)
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        found: Config = json.loads(outcome.out)
        return found

    def pid(self) -> int:
        """Return the number in the pid file."""
        return int(self.pid_file.read_text())

    def output(self, stream: str = "stdout") -> str:
        """Return what the log has of one stream."""
        return "".join(line.text for line in read_log(self.log) if line.stream == stream)

    def wait_output(self, marker: str) -> str:
        """Wait until the marker is in the log of stdout. Raises CheckFailed."""
        if not host.poll_until(lambda: marker in self.output(), self.session.runtime.deadline(20)):
            raise CheckFailed(f"no {marker!r} in the log: {self.output()[-500:]!r} {self.output('stderr')[-500:]!r}")
        return self.output()

    def process(self, *args: str) -> Config:
        """Return the process object of an exec as CRI-O recorded it."""
        found: Config = json.loads((GOLDEN / "cri-o-exec-process.json").read_text())
        return found | {"args": list(args), "cwd": "/"}

    def process_file(self, process: Config) -> Path:
        """Write a process object for `exec --process`."""
        path = self.session.scratch / self.session.new_name("process")
        path.write_text(json.dumps(process))
        return path

    def cleanup(self) -> None:
        """Remove what is left, and end conmon, which ends with the container."""
        self.call("delete", "--force", self.id)
        conmon = Path(f"{self.pid_file}.conmon")
        if conmon.exists():
            pid = int(conmon.read_text())
            if not host.wait_gone(pid, 10):
                os.kill(pid, 9)
