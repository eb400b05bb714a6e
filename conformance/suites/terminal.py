"""Terminals: console socket, controlling terminal, window size, signals from the keyboard, hang-up."""

from __future__ import annotations

from conformance.case import Case
from conformance.console import ConsoleSocket, Terminal
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("terminal")

SHELL = """
trap 'signalled=1; echo size-$(stty size | tr " " x)' WINCH
trap 'signalled=1; echo interrupted' INT
echo start-$(stty size | tr " " x)
tty
[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all-tty
echo ctty-$(cut -d' ' -f7 /proc/self/stat)
ls -l /dev/console
while signalled=; do read line && echo "line<$line>" || [ -n "$signalled" ] || break; done
echo end-of-input
exit 17
"""


class Dialogue:
    """A container with a terminal on which the checks talk, one after another."""

    def __init__(self, container: Container, terminal: Terminal, greeting: str) -> None:
        self.container = container
        self.terminal = terminal
        self.greeting = greeting


def dialogue(session: Session) -> Dialogue:
    """A shell on a terminal."""
    container = session.keep(Container(session, session.new_name("tty"), ("sh", "-c", SHELL), member=True))
    container.config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 101}}
    container.create()
    container.start()
    assert container.terminal is not None
    greeting = container.terminal.read_until(b"/dev/console", container.runtime.deadline(20))
    greeting += container.terminal.read_until(b"\n", container.runtime.deadline(5))
    session.trace(f"  terminal: {greeting!r}")
    return Dialogue(container, container.terminal, greeting.decode(errors="replace"))


def _say(case: Case, terminal: Terminal, data: bytes, answer: bytes) -> bytes:
    terminal.write(data)
    seen = terminal.read_until(answer, case.runtime.deadline(15))
    case.log(f"  typed {data!r}, terminal: {seen!r}")
    return seen


@suite.check(
    "console-socket", "runtime.md#create", "with process.terminal the pty's master arrives at the console socket"
)
def console_socket(case: Case) -> None:
    case.contains(case.shared(dialogue).greeting, "start-", "output on the terminal")


@suite.check(
    "stdio-is-terminal", "config.md#process", "stdin, stdout and stderr are the terminal, a pts of the container"
)
def stdio_is_terminal(case: Case) -> None:
    greeting = case.shared(dialogue).greeting
    case.contains(greeting, "all-tty", "greeting")
    case.matches(greeting, r"^/dev/(pts/0|console)\r?$", "name of the terminal")


@suite.check("controlling-terminal", "config.md#process", "it is the controlling terminal")
def controlling_terminal(case: Case) -> None:
    case.matches(case.shared(dialogue).greeting, r"ctty-[1-9]\d*", "tty_nr of the process")


@suite.check("dev-console", "config-linux.md#default-devices", "/dev/console exists when there is a terminal")
def dev_console(case: Case) -> None:
    case.matches(case.shared(dialogue).greeting, r"^c.*/dev/console", "ls -l /dev/console")


@suite.check("console-size", "config.md#process", "consoleSize is the first size of the window")
def console_size(case: Case) -> None:
    case.contains(case.shared(dialogue).greeting, "start-33x101", "greeting")


@suite.check("echo", "callers: terminals", "the line discipline works: echo, CR and NL, UTF-8")
def echo(case: Case) -> None:
    seen = _say(case, case.shared(dialogue).terminal, "grüße\r".encode(), b"line<gr\xc3\xbc\xc3\x9fe>\r\n")
    case.contains(seen.decode(), "grüße\r\n", "echo of what was typed")


@suite.check("resize", "callers: terminals", "a resize of the master sends WINCH and is seen inside")
def resize(case: Case) -> None:
    terminal = case.shared(dialogue).terminal
    for rows, columns in ((41, 121), (24, 80)):
        terminal.resize(rows, columns)
        seen = terminal.read_until(f"size-{rows}x{columns}".encode(), case.runtime.deadline(15))
        case.log(f"  resized to {rows}x{columns}, terminal: {seen!r}")


@suite.check("interrupt", "callers: terminals", "Ctrl-C sends INT to the foreground process")
def interrupt(case: Case) -> None:
    _say(case, case.shared(dialogue).terminal, b"\x03", b"interrupted")


@suite.check("burst", "callers: terminals", "200 lines typed at once come back complete and in order")
def burst(case: Case) -> None:
    terminal = case.shared(dialogue).terminal
    for block in range(10):
        numbers = [f"n{block * 20 + index:04}" for index in range(20)]
        terminal.write("".join(f"{number}\r" for number in numbers).encode())
        seen = terminal.read_until(f"line<{numbers[-1]}>".encode(), case.runtime.deadline(20)).decode()
        case.equal([word[5:10] for word in seen.split() if word.startswith("line<")], numbers, "lines that came back")


@suite.check("exec-terminal", "callers: exec", "exec with a terminal of its own: size, tty, exit code")
def exec_terminal(case: Case) -> None:
    container = case.shared(dialogue).container
    console = ConsoleSocket(case.scratch / case.session.new_name("tty"))
    case.defer(console.close)
    script = "tty; until stty size 2>/dev/null; do sleep 0.1; done; read line; echo got-$line; exit 6"
    process = {"terminal": True, "args": ["sh", "-c", script], "consoleSize": {"height": 20, "width": 70}}
    running = container.exec_detached(process, "--console-socket", str(console.path))
    pid = running.pid()
    terminal = console.receive(case.runtime.deadline(10))
    case.defer(terminal.close)
    seen = terminal.read_until(b"20 70", case.runtime.deadline(15)).decode()
    case.matches(seen, r"/dev/pts/\d", "name of the terminal")
    _say(case, terminal, b"hello\r", b"got-hello")
    rest = terminal.read_to_end(case.runtime.deadline(15))
    case.log(f"  rest: {rest!r}, pid {pid}")
    case.equal(running.wait().code, 6, "exit code")


@suite.check(
    "end-of-input", "callers: terminals", "Ctrl-D ends the input; the exit code comes out; the master sees the end"
)
def end_of_input(case: Case) -> None:
    talk = case.shared(dialogue)
    _say(case, talk.terminal, b"\x04", b"end-of-input")
    talk.terminal.read_to_end(case.runtime.deadline(15))
    case.equal(talk.container.wait(), 17, "exit code")


@suite.check("hang-up", "callers: terminals", "closing the master hangs the process up")
def hang_up(case: Case) -> None:
    container = case.container("sh", "-c", "trap 'exit 8' HUP; echo up; while :; do read x || sleep 0.2; done")
    container.config["process"]["terminal"] = True
    container.create().start()
    assert container.terminal is not None
    container.terminal.read_until(b"up", case.runtime.deadline(15))
    container.terminal.close()
    code = container.wait()
    case.contains((8, 129), code, "exit code (8 from the trap, 129 from the signal)")


@suite.check("without-socket", "runtime.md#create", "process.terminal without a console socket is an error of create")
def without_socket(case: Case) -> None:
    container = case.container("true")
    container.config["process"]["terminal"] = True
    case.refused(container.try_create())
    case.expect(not container.pid_file.exists(), "a pid file was written")


@suite.check("output-before-end", "callers: terminals", "what is written just before the exit is not lost")
def output_before_end(case: Case) -> None:
    container = case.container("sh", "-c", "seq 1 2000; exit 5")
    container.config["process"]["terminal"] = True
    container.create().start()
    assert container.terminal is not None
    seen = container.terminal.read_to_end(case.runtime.deadline(30)).split()
    case.equal(container.wait(), 5, "exit code")
    case.equal((len(seen), seen[-1:]), (2000, [b"2000"]), "lines and the last of them")
