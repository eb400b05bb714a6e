"""A pod in a virtual machine, from bundles: what `make demo` runs.

Builds a busybox root file system and three bundles with the annotations that CRI-O writes (a sandbox and two
containers), drives `vmpod` as an engine would, shows what is there, deletes everything and counts what is left.
It runs in mount and network namespaces of its own, so nothing on the machine is touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

POD = "demo-pod"
WEB = "demo-web"
WORK = "demo-work"
POD_ADDRESS = "10.89.7.2"
# What a command line of the host has in it, and which part of the pod that is.
PARTS = (
    ("sandbox.__main__", "vmpod", "the sandbox process: owns the machine, answers every later command"),
    ("qemu-system", "QEMU", "the machine"),
    ("virtiofsd", "virtiofsd", "serves the containers' files to it"),
)


class Demo:
    """The demo's directory, its network namespace and its calls of vmpod."""

    def __init__(self, vmpod: str, directory: Path) -> None:
        self.vmpod = vmpod
        self.directory = directory
        self.root = directory / "run"
        self.netns = f"vmpod-demo-{os.getpid()}"

    def call(self, *arguments: str, check: bool = True) -> str:
        """Run one verb and return what it printed."""
        command = [self.vmpod, "--root", str(self.root), *arguments]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if check and result.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{result.stderr}")
        return result.stdout

    def create(self, container: str) -> float:
        """Run `create`, which hands its output to the container; return the seconds it took."""
        log = self.directory / f"{container}.log"
        command = [self.vmpod, "--root", str(self.root), "create"]
        command += ["--bundle", str(self.directory / container), "--pid-file", str(self.directory / f"{container}.pid")]
        begin = time.monotonic()
        with log.open("wb") as output:
            code = subprocess.call([*command, container], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if code:
            sys.exit(f"create {container} failed:\n{log.read_text()}")
        return time.monotonic() - begin


def say(title: str) -> None:
    """Print the heading of a step."""
    print(f"\n\033[1m▸ {title}\033[0m" if sys.stdout.isatty() else f"\n> {title}", flush=True)


def make_rootfs(directory: Path) -> None:
    """A root file system that is just busybox and its applets."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "www"):
        (directory / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox is missing: apt-get install busybox-static")
    shutil.copy2(busybox, directory / "bin" / "busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "www" / "index.html").write_text("hello from inside the virtual machine\n")


def make_bundle(demo: Demo, container: str, kind: str, arguments: list[str]) -> None:
    """A bundle as CRI-O writes it: the pod's network namespace by path, the route in the annotations."""
    bundle = demo.directory / container
    make_rootfs(bundle / "rootfs")
    demo.call("spec", "--bundle", str(bundle))
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": arguments}
    spec["root"] = {"path": "rootfs", "readonly": False}
    spec["hostname"] = "demo"
    spec["annotations"] = {
        "io.kubernetes.cri-o.ContainerType": kind,
        "io.kubernetes.cri-o.SandboxID": POD,
        "io.kubernetes.cri-o.ContainerName": container,
    }
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = f"/run/netns/{demo.netns}"
    (bundle / "config.json").write_text(json.dumps(spec, indent=2))


def make_network(demo: Demo) -> None:
    """What a CNI plugin does: a namespace for the pod, joined to ours by a veth pair."""
    Path("/run/netns").mkdir(exist_ok=True)
    commands = (
        f"ip netns add {demo.netns}",
        "ip link set lo up",
        f"ip link add demo0 type veth peer name eth0 netns {demo.netns}",
        "ip address add 10.89.7.1/24 dev demo0",
        "ip link set demo0 up",
        f"ip -n {demo.netns} address add {POD_ADDRESS}/24 dev eth0",
        f"ip -n {demo.netns} link set eth0 up",
        f"ip -n {demo.netns} link set lo up",
        f"ip -n {demo.netns} route add default via 10.89.7.1",
    )
    for command in commands:
        subprocess.run(command.split(), check=True)


def processes_of(demo: Demo) -> list[tuple[int, int, str]]:
    """(pid, proportional memory in KiB, command line) of every process that belongs to the demo's state directory."""
    found = []
    marks = (str(demo.root), f"vmpod-{hashlib.sha256(POD.encode()).hexdigest()[:16]}")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            memory = (entry / "smaps_rollup").read_text()
        except OSError:
            continue
        if any(mark in command for mark in marks) and "demo.py" not in command:
            pss = next((int(line.split()[1]) for line in memory.splitlines() if line.startswith("Pss:")), 0)
            found.append((int(entry.name), pss, command))
    return sorted(found)


def show_kernels(demo: Demo) -> None:
    """The proof that a container has a kernel of its own."""
    print(f"  host   {platform.release()}")
    for container in (WEB, WORK):
        print(f"  {container:<10} {demo.call('exec', container, 'uname', '-r').strip()}")


def show_tree(demo: Demo) -> None:
    """The pod: host processes that carry it, and below each container the guest's processes."""
    print("  on the host     pid      memory")
    for pid, pss, command in processes_of(demo):
        name, part = next(((name, part) for mark, name, part in PARTS if mark in command), (command.split()[0], ""))
        print(f"  {name:<11} {pid:>7}  {pss / 1024:6.1f} MiB  {part}")
    print("\n  in the machine, by container")
    for container in (POD, WEB, WORK):
        state = json.loads(demo.call("state", container))
        print(f"  {container:<9} is {state['status']}; for the engine it is process {state['pid']} of the host")
        for line in demo.call("ps", container).splitlines()[1:]:
            _user, pid, _parent, _share, _start, _tty, _time, command = line.split(maxsplit=7)
            print(f"  └─ pid {pid:<5} {command}")


def show_waterfall(demo: Demo) -> None:
    """Where the start-up time went."""
    for line in demo.call("timeline", POD).splitlines():
        print(f"  {line}")
    print("  0: the first create begins. Bars above each other: work side by side. Indented: what the guest does")
    print("  during `agent answers`. The last four: the later creates of the two containers.")


def fetch_page() -> str:
    """Ask the pod's web server, from outside of the pod."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{POD_ADDRESS}:8080/index.html", timeout=20) as answer:
        return str(answer.read().decode().strip())


def leftovers(demo: Demo) -> list[str]:
    """Everything of the pod that is still there."""
    found = [f"process {pid}: {command[:80]}" for pid, _pss, command in processes_of(demo)]
    found += [
        f"mount {line.split()[4]}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(demo.root) in line
    ]
    found += [f"file {path}" for path in demo.root.rglob("*") if path.name != ".sandboxes"]
    links = json.loads(subprocess.check_output(["ip", "-n", demo.netns, "-j", "link"], text=True))
    found += [f"interface {link['ifname']}" for link in links if link["ifname"] not in ("lo", "eth0")]
    return found


def run(demo: Demo) -> None:
    """The whole demonstration."""
    say("three bundles: a sandbox and two containers, annotated as CRI-O does")
    make_network(demo)
    make_bundle(demo, POD, "sandbox", ["sleep", "1000000"])
    make_bundle(demo, WEB, "container", ["httpd", "-f", "-p", "8080", "-h", "/www"])
    make_bundle(demo, WORK, "container", ["sh", "-c", "while :; do date; sleep 1; done"])
    for container in (POD, WEB, WORK):
        took = demo.create(container)
        demo.call("start", container)
        print(f"  vmpod create {container:<10} {took:5.2f} s   {'boots the VM' if container == POD else 'joins it'}")
    machines = [command for _pid, _pss, command in processes_of(demo) if "qemu-system" in command.split()[0]]
    say(f"one virtual machine serves all three: {len(machines)} QEMU process")
    assert len(machines) == 1, machines
    say("kernels (uname -r)")
    show_kernels(demo)
    say("exec in each container")
    for container in (POD, WEB, WORK):
        print(f"  {container:<10} {demo.call('exec', container, 'sh', '-c', 'echo $$ on $(hostname)').strip()}")
    say("an HTTP request from the host, over the pod's veth")
    print(f"  {fetch_page()}")
    say("the pod as a tree")
    show_tree(demo)
    say("where the start-up time went (vmpod timeline)")
    show_waterfall(demo)
    say("delete")
    for container in (WORK, WEB, POD):
        demo.call("kill", container, "KILL")
        demo.call("delete", "--force", container)
    left = leftovers(demo)
    for line in left:
        print(f"  left: {line}")
    if left:
        sys.exit("something was left behind")
    print("  nothing is left: no process, mount, interface or file")


def main() -> None:
    """Parse, run, and clean up even after a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vmpod", default="vmpod", help="the binary to show")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="vmpod-demo-"))
    demo = Demo(arguments.vmpod, directory)
    try:
        run(demo)
    finally:
        for container in (WORK, WEB, POD):
            demo.call("delete", "--force", container, check=False)
        subprocess.run(["ip", "netns", "delete", demo.netns], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
