"""The container's process: arguments, environment, user, capabilities, limits, as config.md#process says."""

from __future__ import annotations

from functools import partial

from conformance.bundle import PATH, Config
from conformance.case import Case, sections
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("process")

# Words that a shell, a quoting layer or a JSON layer would spoil.
WORDS = ["plain", "two words", "", "tab\there", "line\nbreak", "quote'\"`$HOME", "ünïcödé ✓", "-n", "--", "*"]
VARIABLES = ["A=1", "EMPTY=", "SPACE=a b", "EQUALS=x=y=z", "QUOTE='\"$A`", "UNICODE=ünï ✓", "LINE=a\nb"]

PROBE = """
section() { echo; echo "@@ $1"; }
section words; for word in "$@"; do printf '<%s>' "$word"; done
section env; tr '\\0' '\\001' </proc/self/environ
section cwd; pwd; readlink /proc/self/cwd
section id; id -u; id -g; cat /proc/self/status | grep '^Groups:'
section umask; umask
section status; cat /proc/self/status
section limits; cat /proc/self/limits
section oom; cat /proc/self/oom_score_adj
section pid; echo $$
section stdin; readlink /proc/self/fd/0; wc -c
section fds; ls -l /proc/$$/fd
section stat; cat /proc/$$/stat
"""

ROOT_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10}


def as_root(session: Session) -> dict[str, str]:
    """A process of root with limits, capabilities and words that are easy to spoil."""
    container = session.keep(Container(session, session.new_name("root"), (), member=True))
    process: Config = container.config["process"]
    process["args"] = ["sh", "-c", PROBE, "sh", *WORDS]
    process["env"] = [PATH, *VARIABLES]
    process["cwd"] = "/opt"
    process["oomScoreAdj"] = 345
    process["capabilities"] = {key: list(ROOT_CAPABILITIES) for key in ("bounding", "permitted")}
    process["capabilities"]["effective"] = ["CAP_CHOWN", "CAP_KILL"]
    process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1000},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 30, "hard": 1 << 31},
    ]
    return sections(container.run().out)


def as_user(session: Session) -> dict[str, str]:
    """A process of an ordinary user with additional groups, a umask and noNewPrivileges."""
    container = session.keep(Container(session, session.new_name("user"), (), member=True))
    process: Config = container.config["process"]
    process["args"] = ["sh", "-c", PROBE, "sh"]
    process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 2000, 70000], "umask": 0o027}
    process["noNewPrivileges"] = True
    process["cwd"] = "/tmp"
    process["capabilities"] = {key: ["CAP_NET_BIND_SERVICE"] for key in ("bounding", "permitted", "effective")}
    process["capabilities"]["inheritable"] = ["CAP_NET_BIND_SERVICE"]
    process["capabilities"]["ambient"] = ["CAP_NET_BIND_SERVICE"]
    return sections(container.run().out)


def _status(facts: dict[str, str], key: str) -> str:
    for line in facts["status"].splitlines():
        if line.startswith(f"{key}:"):
            return line.partition(":")[2].strip()
    return f"no {key}"


def _mask(*numbers: int) -> str:
    return f"{sum(1 << number for number in numbers):016x}"


@suite.check("args", "config.md#process", "arguments arrive byte for byte, empty ones included")
def args(case: Case) -> None:
    case.equal(case.shared(as_root)["words"], "".join(f"<{word}>" for word in WORDS), "arguments")


@suite.check("env", "config.md#process", "the environment is the configured one, byte for byte")
def env(case: Case) -> None:
    found = [entry for entry in case.shared(as_root)["env"].split("\x01") if entry.strip()]
    for wanted in VARIABLES:
        case.contains(found, wanted, "environment")


@suite.check("env-nothing-of-host", "config.md#process", "nothing of the runtime's own environment gets in")
def env_nothing_of_host(case: Case) -> None:
    names = {entry.partition("=")[0] for entry in case.shared(as_root)["env"].split("\x01") if entry.strip()}
    wanted = {entry.partition("=")[0] for entry in VARIABLES} | {"PATH"}
    # a runtime may set HOME when it is missing, and the shell sets its own
    case.equal(names - wanted - {"HOME", "PWD", "SHLVL", "OLDPWD", "_"}, set(), "additional variables")


@suite.check("cwd", "config.md#process", "the working directory is the configured one")
def cwd(case: Case) -> None:
    case.equal(case.shared(as_root)["cwd"], "/opt\n/opt", "working directory")


@suite.check("cwd-created", "config.md#process", "a working directory that is missing is made")
def cwd_created(case: Case) -> None:
    container = case.container("pwd")
    container.config["process"]["cwd"] = "/made/for/this"
    case.equal(container.run().out, "/made/for/this\n", "working directory")


@suite.check("user", "config.md#posix-platform-user", "uid, gid and additional gids are the configured ones")
def user(case: Case) -> None:
    facts = case.shared(as_user)
    case.equal(_status(facts, "Uid"), "1000\t1000\t1000\t1000", "uids")
    case.equal(_status(facts, "Gid"), "1001\t1001\t1001\t1001", "gids")
    groups = {int(word) for word in _status(facts, "Groups").split()}
    case.equal(groups - {1001}, {5, 2000, 70000}, "additional gids")


@suite.check("umask", "config.md#posix-platform-user", "the umask is the configured one, 0022 without one")
def umask(case: Case) -> None:
    case.equal(case.shared(as_user)["umask"], "0027", "configured umask")
    case.equal(case.shared(as_root)["umask"], "0022", "default umask")


@suite.check("no-new-privileges", "config.md#linux-process", "noNewPrivileges is set when asked for, and only then")
def no_new_privileges(case: Case) -> None:
    case.equal(_status(case.shared(as_user), "NoNewPrivs"), "1", "when asked for")
    case.equal(_status(case.shared(as_root), "NoNewPrivs"), "0", "when not")


@suite.check(
    "capabilities", "config.md#linux-process", "bounding, permitted and effective sets are the configured ones"
)
def capabilities(case: Case) -> None:
    facts = case.shared(as_root)
    case.equal(_status(facts, "CapBnd"), _mask(*ROOT_CAPABILITIES.values()), "bounding")
    # root gains its bounding set at exec: effective then equals permitted
    case.equal(_status(facts, "CapPrm"), _mask(*ROOT_CAPABILITIES.values()), "permitted")
    case.equal(_status(facts, "CapAmb"), _mask(), "ambient")


@suite.check("capabilities-ambient", "config.md#linux-process", "ambient capabilities survive exec as an ordinary user")
def capabilities_ambient(case: Case) -> None:
    facts = case.shared(as_user)
    for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        case.equal(_status(facts, key), _mask(10), key)


@suite.check("capabilities-none", "config.md#linux-process", "without capabilities a process has none")
def capabilities_none(case: Case) -> None:
    container = case.container("sh", "-c", "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status")
    container.config["process"].pop("capabilities")
    case.equal({line.split()[1] for line in container.run().out.splitlines()}, {_mask()}, "capability sets")


@suite.check("rlimits", "config.md#posix-process", "resource limits are set, soft and hard")
def rlimits(case: Case) -> None:
    text = case.shared(as_root)["limits"]
    case.matches(text, r"^Max open files\s+512\s+1000\s", "limits")
    case.matches(text, r"^Max core file size\s+0\s+0\s", "limits")
    case.matches(text, r"^Max file size\s+1073741824\s+2147483648\s", "limits")


@suite.check("oom-score-adj", "config.md#linux-process", "oomScoreAdj is set")
def oom_score_adj(case: Case) -> None:
    case.equal(case.shared(as_root)["oom"], "345", "oom_score_adj")


@suite.check("pid-1", "config-linux.md#namespaces", "in a pid namespace of its own the process is pid 1")
def pid_1(case: Case) -> None:
    case.equal(case.shared(as_root)["pid"], "1", "pid")


@suite.check("session", "callers: process", "the process leads a session of its own")
def session_leader(case: Case) -> None:
    fields = case.shared(as_root)["stat"].rpartition(")")[2].split()
    case.equal((fields[2], fields[3]), ("1", "1"), "process group and session of pid 1")


@suite.check("stdin-null", "callers: stdio", "stdin from /dev/null is empty, not closed")
def stdin_null(case: Case) -> None:
    lines = case.shared(as_root)["stdin"].splitlines()
    case.equal(lines[-1].strip(), "0", "bytes on stdin")


@suite.check("fds", "callers: stdio", "no descriptor but stdin, stdout and stderr reaches the process")
def fds(case: Case) -> None:
    entries = case.shared(as_root)["fds"].splitlines()
    numbers = {line.split(" -> ")[0].split()[-1] for line in entries if " -> " in line}
    # the shell itself may keep its script or terminal at 10
    case.equal(numbers - {"10"}, {"0", "1", "2"}, "open descriptors")


@suite.check("path-lookup", "config.md#posix-process", "args[0] without a slash is looked up in PATH of the container")
def path_lookup(case: Case) -> None:
    container = case.container("tool")
    tool = container.rootfs / "opt/tool"
    tool.write_text("#!/bin/sh\necho found $0\n")
    tool.chmod(0o755)
    container.config["process"]["env"] = ["PATH=/nowhere:/opt:/bin"]
    case.equal(container.run().out, "found /opt/tool\n", "output")


@suite.check("relative-program", "config.md#posix-process", "args[0] with a slash is taken from the working directory")
def relative_program(case: Case) -> None:
    container = case.container("./tool")
    tool = container.rootfs / "opt/tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    container.config["process"]["cwd"] = "/opt"
    case.equal(container.run().out, "found\n", "output")


def _unstartable(arguments: tuple[str, ...], pattern: str, case: Case) -> None:
    container = case.container(*arguments)
    (container.rootfs / "opt/data").write_text("no program\n")
    (container.rootfs / "opt/data").chmod(0o644)
    outcome = container.try_create()
    if outcome.ok:
        outcome = case.runtime.call("start", container.id)
    case.refused(outcome, pattern)


suite.add(
    "missing-in-path",
    "callers: error texts",
    "a program that is not in PATH: `executable file … not found`",
    partial(_unstartable, ("no-such-program",), r"executable file .?(no-such-program.? )?not found in \$PATH"),
)
suite.add(
    "missing-file",
    "callers: error texts",
    "a path that does not exist: `no such file or directory`",
    partial(_unstartable, ("/no/such/program",), "no such file or directory"),
)
suite.add(
    "not-executable",
    "callers: error texts",
    "a file that is not executable: `permission denied`",
    partial(_unstartable, ("/opt/data",), "permission denied"),
)


@suite.check("additional-fds", "callers: --preserve-fds", "create --preserve-fds hands further descriptors over")
def additional_fds(case: Case) -> None:
    container = case.container("sh", "-c", "cat <&3")
    container.join_pod()
    container.write()
    case.session.count_create(True)
    data = case.scratch / case.session.new_name("data")
    data.write_text("from descriptor 3\n")
    flags = ("--preserve-fds", "1", "--bundle", str(container.bundle), "--pid-file", str(container.pid_file))
    script = f'exec "$@" 3<{data} >{container.out_path} 2>{container.err_path}'
    argv = ["sh", "-c", script, "sh", *case.runtime.argv("create", *flags, container.id)]
    case.succeeded(case.runtime.command(argv, deadline_s=case.runtime.deadline(60)))
    container.start()
    case.equal(container.finished().out, "from descriptor 3\n", "output")


@suite.check(
    "oom-score-adj-negative", "config.md#linux-process", "an oomScoreAdj that the host forbids is an error or kept out"
)
def oom_negative(case: Case) -> None:
    container = case.container("cat", "/proc/self/oom_score_adj")
    container.config["process"]["oomScoreAdj"] = -500
    outcome = container.try_create()
    if outcome.ok:
        container.start()
        case.contains(("-500", "0"), container.finished().out.strip(), "oom_score_adj")
    else:
        case.refused(outcome)
