"""Root file system and mounts: what config.md#mounts and config-linux.md promise about them."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

from conformance import host
from conformance.bundle import Config, bind_mount, mount_entry
from conformance.case import Case, sections
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("filesystem")

PROBE = """
section() { echo; echo "@@ $1"; }
try() { "$@" 2>/dev/null && echo yes || echo no; }
section mounts; cat /proc/self/mountinfo
section root-write; try touch /written-inside
section ro-dir; cat /ro/file; try touch /ro/new; try rm /ro/file
section rw-dir; cat /rw/file; try touch /rw/new; echo from-inside >/rw/answer; mkdir /rw/made; ln -s file /rw/link
section ro-file; cat /etc/ro.conf; try sh -c 'echo x >>/etc/ro.conf'
section rw-file; cat /etc/rw.conf; echo changed-inside >/etc/rw.conf
section spaces; cat "/with space/file"
section noexec; try /noexec/tool
section tmpfs; try touch /scratch/x; stat -c '%a' /scratch; try sh -c 'head -c 3000000 /dev/zero >/scratch/big'
section tmpfs-free; df -k /scratch | tail -n 1 | awk '{print $2}'
section nested; cat /outer/file; cat /outer/inner/file; try touch /outer/inner/new
section late; cat /run/late/file
section masked-file; cat /opt/secret; stat -c %F /opt/secret
section masked-dir; ls -A /opt/secrets
section readonly-path; cat /opt/fixed/file; try touch /opt/fixed/new
section proc-sys; try sh -c 'echo 1 >/proc/sys/kernel/printk'
section sys; [ -d /sys/fs/cgroup/memory ] && c=/sys/fs/cgroup/memory || c=/sys/fs/cgroup
try touch /sys/x; try mkdir $c/x; ls $c
section shm; stat -c '%a' /dev/shm; df -k /dev/shm | tail -n 1 | awk '{print $2}'
section link; cat /through/file
section symlink; readlink /opt/link; cat /opt/link
section owner; stat -c '%u:%g %a' /opt/owned
section hard; stat -c %h /opt/one
"""


class Probe:
    """What the container saw, and the host's side of its mounts."""

    def __init__(self, facts: dict[str, str], container: Container, sources: Path) -> None:
        self.facts = facts
        self.container = container
        self.sources = sources

    def mount(self, target: str) -> tuple[set[str], str, set[str]]:
        """Return options, file system type and super options of the last mount on a target."""
        found: tuple[set[str], str, set[str]] = (set(), "", set())
        for line in self.facts["mounts"].splitlines():
            left, _, right = line.partition(" - ")
            fields, tail = left.split(), right.split()
            if len(fields) > 5 and fields[4] == target:
                found = (set(fields[5].split(",")), tail[0], set(tail[2].split(",")))
        return found

    def lines(self, key: str) -> list[str]:
        """Return the lines of one section."""
        return self.facts[key].splitlines()


def probe(session: Session) -> Probe:
    """One container with many mounts."""
    container = session.keep(Container(session, session.new_name("fs"), ("sh", "-c", PROBE), member=True))
    sources = session.scratch / session.new_name("src")
    _make_sources(sources)
    _fill_rootfs(container.rootfs)
    config = container.config
    config["mounts"] += _mounts(sources)
    config["linux"]["maskedPaths"] += ["/opt/secret", "/opt/secrets", "/opt/not-there"]
    config["linux"]["readonlyPaths"] += ["/opt/fixed", "/opt/not-there-either"]
    return Probe(sections(container.run().out), container, sources)


def _make_sources(sources: Path) -> None:
    for name in ("ro", "rw", "outer", "outer/inner", "inner", "late", "link"):
        (sources / name).mkdir(parents=True, exist_ok=True)
        (sources / name / "file").write_text(f"{name} of the host\n")
    for name in ("ro.conf", "rw.conf"):
        (sources / name).write_text(f"{name} of the host\n")
    tool = sources / "ro/tool"
    tool.write_text("#!/bin/sh\nexit 0\n")
    tool.chmod(0o755)


def _fill_rootfs(rootfs: Path) -> None:
    for name in ("secret", "one"):
        (rootfs / "opt" / name).write_text("in the image\n")
    for name in ("secrets", "fixed", "real"):
        (rootfs / "opt" / name).mkdir()
        (rootfs / "opt" / name / "file").write_text("in the image\n")
    os.link(rootfs / "opt/one", rootfs / "opt/two")
    (rootfs / "opt/owned").write_text("")
    (rootfs / "opt/owned").chmod(0o640)
    os.chown(rootfs / "opt/owned", 1234, 5678)
    os.symlink("secrets/../one", rootfs / "opt/link")
    os.symlink("/opt/real", rootfs / "through")


def _mounts(sources: Path) -> list[Config]:
    return [
        bind_mount(sources / "ro", "/ro", "ro"),
        bind_mount(sources / "rw", "/rw", "rw", "nosuid"),
        bind_mount(sources / "ro.conf", "/etc/ro.conf", "ro"),
        bind_mount(sources / "rw.conf", "/etc/rw.conf", "rw"),
        bind_mount(sources / "ro", "/with space", "ro"),
        bind_mount(sources / "ro", "/noexec", "ro", "noexec", "nodev", "nosuid"),
        mount_entry("/scratch", "tmpfs", "tmpfs", "nosuid", "nodev", "noexec", "size=2m", "mode=0711"),
        bind_mount(sources / "outer", "/outer", "rw"),
        bind_mount(sources / "inner", "/outer/inner", "ro"),
        mount_entry("/run", "tmpfs", "tmpfs", "mode=755"),
        bind_mount(sources / "late", "/run/late", "ro"),
        bind_mount(sources / "link", "/through", "ro"),
    ]


@suite.check("root-writable", "config.md#root", "the root file system is writable, and the host sees what is written")
def root_writable(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.facts["root-write"], "yes", "write in /")
    case.expect((found.container.rootfs / "written-inside").exists(), "the file is not in the bundle's rootfs")


@suite.check("bind-readonly", "config.md#mounts", "a read-only bind of a directory shows files and refuses writes")
def bind_readonly(case: Case) -> None:
    case.equal(case.shared(probe).lines("ro-dir"), ["ro of the host", "no", "no"], "read, create, remove")


@suite.check("bind-writable", "config.md#mounts", "a writable bind of a directory works both ways")
def bind_writable(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.lines("rw-dir"), ["rw of the host", "yes"], "read, create")
    case.equal((found.sources / "rw/answer").read_text(), "from-inside\n", "file that the container wrote")
    case.expect((found.sources / "rw/made").is_dir(), "directory that the container made")
    case.equal(os.readlink(found.sources / "rw/link"), "file", "symbolic link that the container made")


@suite.check("bind-file-readonly", "config.md#mounts", "a read-only bind of a file")
def bind_file_readonly(case: Case) -> None:
    case.equal(case.shared(probe).lines("ro-file"), ["ro.conf of the host", "no"], "read, write")


@suite.check("bind-file-writable", "config.md#mounts", "a writable bind of a file")
def bind_file_writable(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.lines("rw-file"), ["rw.conf of the host"], "read")
    case.equal((found.sources / "rw.conf").read_text(), "changed-inside\n", "the host's file")


@suite.check("bind-source", "config.md#mounts", "mountinfo names the directory or file that a bind comes from")
def bind_source(case: Case) -> None:
    found = case.shared(probe)
    for target, name in (("/ro", "ro"), ("/etc/rw.conf", "rw.conf"), ("/outer/inner", "inner")):
        roots = [line.split()[3] for line in found.lines("mounts") if line.split()[4] == target]
        case.equal([Path(root).name for root in roots], [name], f"source of {target}")


@suite.check("bind-spaces", "config.md#mounts", "a destination with a space")
def bind_spaces(case: Case) -> None:
    case.equal(case.shared(probe).facts["spaces"], "ro of the host", "content")


@suite.check("bind-options", "config-linux.md#filesystems", "nosuid, nodev and noexec of a bind are set and enforced")
def bind_options(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.facts["noexec"], "no", "program on a noexec mount")
    case.expect({"nosuid", "nodev", "noexec", "ro"} <= found.mount("/noexec")[0], f"options: {found.mount('/noexec')}")
    case.expect("nosuid" in found.mount("/rw")[0], f"options of /rw: {found.mount('/rw')}")


@suite.check("tmpfs", "config.md#mounts", "a tmpfs with size, mode and flags; the size is a limit")
def tmpfs(case: Case) -> None:
    found = case.shared(probe)
    options, kind, _ = found.mount("/scratch")
    case.equal(kind, "tmpfs", "file system")
    case.expect({"nosuid", "nodev", "noexec"} <= options, f"options: {options}")
    case.equal(found.lines("tmpfs"), ["yes", "711", "no"], "create a file, mode, write 3 MB into 2 MiB")
    case.equal(found.facts["tmpfs-free"], "2048", "size in KiB")


@suite.check("nested", "config.md#mounts", "a read-only bind inside a writable bind")
def nested(case: Case) -> None:
    case.equal(case.shared(probe).lines("nested"), ["outer of the host", "inner of the host", "no"], "nested")


@suite.check("order", "config.md#mounts", "mounts are made in the order of the list: a bind below a tmpfs")
def order(case: Case) -> None:
    case.equal(case.shared(probe).facts["late"], "late of the host", "content")


@suite.check("destination-made", "config.md#mounts", "destinations that are missing in the root file system are made")
def destination_made(case: Case) -> None:
    found = case.shared(probe)
    case.expect((found.container.rootfs / "ro").is_dir(), "/ro was not made as a directory")
    case.expect((found.container.rootfs / "etc/ro.conf").is_file(), "/etc/ro.conf was not made as a file")


@suite.check(
    "destination-link", "config.md#mounts", "a destination that is a symbolic link is followed inside the root"
)
def destination_link(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.facts["link"], "link of the host", "content through the link")
    case.expect(found.mount("/opt/real")[1], "no mount at the link's target")


@suite.check("destination-escape", "config.md#mounts", "a link that points out of the root stays inside it")
def destination_escape(case: Case) -> None:
    container = case.container("cat", "/opt/out/proof")
    outside = case.directory("outside")
    os.symlink(f"../../../../../../../..{outside}", container.rootfs / "opt/out")
    (container.rootfs / str(outside).lstrip("/")).mkdir(parents=True)
    source = case.directory("source")
    (source / "proof").write_text("inside\n")
    container.config["mounts"].append(bind_mount(source, "/opt/out"))
    case.equal(container.run().out, "inside\n", "content")
    case.equal(os.listdir(outside), [], "directory of the host that the link points at")


@suite.check(
    "masked", "config-linux.md#masked-paths", "masked files and directories are empty; missing ones are ignored"
)
def masked(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.lines("masked-file"), ["character special file"], "masked file: content and kind")
    case.equal(found.facts["masked-dir"], "", "masked directory")


@suite.check("readonly-paths", "config-linux.md#readonly-paths", "read-only paths can be read, not written")
def readonly_paths(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.lines("readonly-path"), ["in the image", "no"], "read, write")
    case.equal(found.facts["proc-sys"], "no", "write to /proc/sys")


@suite.check(
    "default-filesystems", "config-linux.md#default-filesystems", "proc, sysfs, devpts and shm are there, of their kind"
)
def default_filesystems(case: Case) -> None:
    found = case.shared(probe)
    kinds = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev": "tmpfs"}
    for target, kind in kinds.items():
        case.equal(found.mount(target)[1], kind, f"file system on {target}")
    case.equal(found.lines("shm"), ["1777", "65536"], "mode and size of /dev/shm in KiB")
    case.equal(found.mount("/dev/mqueue")[1], "mqueue", "file system on /dev/mqueue")


@suite.check("sys-readonly", "config.md#mounts", "/sys and the cgroup tree are read-only when the options say so")
def sys_readonly(case: Case) -> None:
    lines = case.shared(probe).lines("sys")
    case.equal(lines[:2], ["no", "no"], "writes")
    case.expect(lines[2:], "/sys/fs/cgroup is empty")


@suite.check("metadata", "config.md#root", "owners, modes, hard and symbolic links of the root file system are kept")
def metadata(case: Case) -> None:
    found = case.shared(probe)
    case.equal(found.facts["owner"], "1234:5678 640", "owner and mode")
    case.equal(found.facts["hard"], "2", "number of hard links")
    case.equal(found.lines("symlink"), ["secrets/../one", "in the image"], "symbolic link")


@suite.check("nothing-of-host", "config.md#mounts", "nothing but the listed mounts is visible")
def nothing_of_host(case: Case) -> None:
    found = case.shared(probe)
    targets = [line.split()[4] for line in found.lines("mounts") if line]
    known = ("/proc", "/dev", "/sys", "/opt/secret", "/opt/secrets", "/opt/fixed", "/opt/real")
    ours = {mount["destination"].replace(" ", "\\040") for mount in found.container.config["mounts"]}
    extra = [target for target in targets if target != "/" and target not in ours and not target.startswith(known)]
    case.equal(extra, [], "mounts that nobody asked for")


@suite.check("readonly-root", "config.md#root", "root.readonly refuses writes in the root, not in its mounts")
def readonly_root(case: Case) -> None:
    script = "touch /x 2>/dev/null && echo yes || echo no; touch /tmp/x && echo yes; touch /dev/shm/x && echo yes"
    container = case.container("sh", "-c", script)
    container.config["root"]["readonly"] = True
    container.config["mounts"].append(mount_entry("/tmp", "tmpfs", "tmpfs"))
    case.equal(container.run().out.split(), ["no", "yes", "yes"], "writes in /, /tmp and /dev/shm")


@suite.check("root-absolute", "config.md#root", "root.path may be absolute and need not be in the bundle")
def root_absolute(case: Case) -> None:
    container = case.container("cat", "/etc/where")
    elsewhere = case.directory("elsewhere") / "tree with space"
    container.rootfs.rename(elsewhere)
    (elsewhere / "etc/where").write_text("elsewhere\n")
    container.config["root"]["path"] = str(elsewhere)
    case.equal(container.run().out, "elsewhere\n", "content")


@suite.check(
    "recursive-bind", "config-linux.md#filesystems", "rbind takes the mounts below its source along; bind does not"
)
def recursive_bind(case: Case) -> None:
    source = case.directory("tree")
    (source / "sub").mkdir()
    host.mount("tmpfs", str(source / "sub"), "tmpfs")
    case.defer(lambda: host.umount(str(source / "sub")))
    (source / "sub/deep").write_text("deep\n")
    container = case.container("sh", "-c", "ls /recursive/sub; echo --; ls /flat/sub")
    container.config["mounts"] += [
        mount_entry("/recursive", "bind", str(source), "rbind", "rw"),
        mount_entry("/flat", "bind", str(source), "bind", "rw"),
    ]
    case.equal(container.run().out, "deep\n--\n", "content of the mount below the source")


@suite.check(
    "host-changes", "config.md#mounts", "what the host changes in a bind is seen by the running container, and back"
)
def host_changes(case: Case) -> None:
    source = case.directory("live")
    script = "until [ -e /live/ask ]; do sleep 0.1; done; cat /live/ask; echo pong >/live/reply"
    container = case.container("sh", "-c", script)
    container.config["mounts"].append(bind_mount(source, "/live"))
    container.create().start()
    (source / "ask.new").write_text("ping\n")
    (source / "ask.new").rename(source / "ask")
    case.equal(container.finished().out, "ping\n", "what the container read")
    case.equal((source / "reply").read_text(), "pong\n", "what the host reads")


def _propagation(value: str, wanted: str, case: Case) -> None:
    container = case.container("sh", "-c", "awk '$5 == \"/\"' /proc/self/mountinfo")
    container.config["linux"]["rootfsPropagation"] = value
    fields = container.run().out.partition(" - ")[0].split()[6:]
    found = "shared" if any(f.startswith("shared:") for f in fields) else "private"
    found = "unbindable" if "unbindable" in fields else found
    case.equal(found, wanted, f"propagation of / with {value!r}: {fields}")


@suite.check(
    "masked-kinds", "config-linux.md#masked-paths", "what is nested, a pipe, a device or behind a link is masked"
)
def masked_kinds(case: Case) -> None:
    container = case.container("sh", "-c", KINDS)
    _make_kinds(container.rootfs / "opt")
    container.config["linux"]["maskedPaths"] = [f"/opt/{name}" for name in (*KIND_NAMES, "deep/er/file")]
    container.config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    expected = ["pipe: character special file", "device: character special file 1:3", "target: masked", "deep: masked"]
    case.equal(container.run().out.splitlines(), expected, "kinds and content")


@suite.check("readonly-kinds", "config-linux.md#readonly-paths", "what is nested or behind a link is read-only")
def readonly_kinds(case: Case) -> None:
    script = "cd /opt; for f in target/file deep/er/file; do echo x 2>/dev/null >>$f && echo $f; done; cat deep/er/file"
    container = case.container("sh", "-c", script)
    _make_kinds(container.rootfs / "opt")
    container.config["linux"]["readonlyPaths"] = ["/opt/link", "/opt/deep/er/file"]
    case.equal(container.run().out, "in the image\n", "output")


KIND_NAMES = ("pipe", "device", "link")
KINDS = """
echo "pipe: $(stat -c %F /opt/pipe)"; echo "device: $(stat -c '%F %t:%T' /opt/device)"
[ -e /opt/target/file ] && echo target: visible || echo target: masked
[ -s /opt/deep/er/file ] && echo deep: visible || echo deep: masked
"""


def _make_kinds(directory: Path) -> None:
    """A named pipe, a device, a link to a directory, a file two levels down."""
    os.mkfifo(directory / "pipe")
    os.mknod(directory / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    for name in ("target", "deep/er"):
        (directory / name).mkdir(parents=True)
        (directory / name / "file").write_text("in the image\n")
    os.symlink("target", directory / "link")


for _value, _wanted in (
    ("private", "private"),
    ("slave", "private"),
    ("shared", "shared"),
    ("unbindable", "unbindable"),
):
    suite.add(
        f"propagation-{_value}",
        "config-linux.md#rootfs-mount-propagation",
        f"rootfsPropagation {_value}",
        partial(_propagation, _value, _wanted),
    )


@suite.check("unix-socket", "config.md#mounts", "a named pipe in a bind connects processes of the container")
def named_pipe(case: Case) -> None:
    source = case.directory("pipes")
    container = case.container("sh", "-c", "mkfifo /pipes/p; (echo through >/pipes/p) & cat /pipes/p; wait")
    container.config["mounts"].append(bind_mount(source, "/pipes"))
    case.equal(container.run().out, "through\n", "output")


@suite.check("mmap-and-locks", "config.md#root", "tar, rename, truncate and append behave as on any file system")
def file_operations(case: Case) -> None:
    script = """set -e; cd /opt; mkdir t; for i in $(seq 1 200); do echo $i >t/f$i; done
tar cf t.tar t; rm -r t; tar xf t.tar; ls t | wc -l; mv t u; cat u/f200
head -c 100000 /dev/zero >z; truncate -s 10 z; echo tail >>z; wc -c <z; chmod 4755 z; stat -c %a z
touch -d @1000000000 z; stat -c %Y z"""
    done = case.container("sh", "-c", script).run()
    case.equal((done.code, done.out.split()), (0, ["200", "200", "15", "4755", "1000000000"]), "results")
