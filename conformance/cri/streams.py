"""The streaming calls: exec, attach, port-forward."""

from __future__ import annotations

from conformance.case import Case
from conformance.cri import stream
from conformance.cri.lab import FOREVER, container_of, lab_of
from conformance.registry import Suite

suite = Suite("cri-streams", "cri")
CLAUSE = "Kubernetes CRI v1, streaming"


def _exec(case: Case, container: str, *command: str, stdin: bool = False, tty: bool = False) -> stream.WebSocket:
    response = lab_of(case).client.call(
        "Exec", container_id=container, cmd=list(command), tty=tty, stdin=stdin, stdout=True, stderr=not tty
    )
    connection = stream.WebSocket(response.url)
    case.defer(connection.close)
    return connection


@suite.check("exec", CLAUSE, "exec streams both outputs and ends with the code")
def exec_output(case: Case) -> None:
    _pod, container = container_of(case, *FOREVER)
    result = stream.read_all(_exec(case, container, "sh", "-c", "echo out; echo err >&2; exit 7"))
    case.equal((result.stdout, result.stderr, result.exit_code), (b"out\n", b"err\n", 7), "result")


@suite.check("exec-stdin", CLAUSE, "exec carries input to the command")
def exec_stdin(case: Case) -> None:
    _pod, container = container_of(case, *FOREVER)
    connection = _exec(case, container, "head", "-c", "200000", stdin=True)
    sent = bytes(range(256)) * 800
    for at in range(0, 200000, 10000):
        connection.send(stream.STDIN, sent[at : at + 10000])
    result = stream.read_all(connection)
    case.equal((result.stdout == sent[:200000], result.exit_code), (True, 0), "output equals input, exit code")


@suite.check("exec-tty", CLAUSE, "exec with a terminal: echo, size, interrupt")
def exec_tty(case: Case) -> None:
    _pod, container = container_of(case, *FOREVER)
    connection = _exec(case, container, "sh", stdin=True, tty=True)
    stream.resize(connection, 91, 37)
    connection.send(stream.STDIN, b"echo mark$((40+2))\n")
    stream.read_until(connection, b"mark42")
    connection.send(stream.STDIN, b"stty size\n")
    stream.read_until(connection, b"37 91")
    # What says "go" is in the foreground already: an interrupt that comes before a program is there meets the shell.
    connection.send(stream.STDIN, b"sh -c 'echo go$((40+2)); exec sleep 47110'\n")
    stream.read_until(connection, b"go42")
    connection.send(stream.STDIN, b"\x03")
    connection.send(stream.STDIN, b"echo still$((40+2)); exit 5\n")
    stream.read_until(connection, b"still42")
    case.equal(stream.read_all(connection).exit_code, 5, "exit code")


@suite.check("attach", CLAUSE, "attach carries input and output of the first process; it can be repeated")
def attach(case: Case) -> None:
    script = "echo ready; while read line; do echo got $line; done; echo end"
    pod, container = container_of(case, "sh", "-c", script, stdin=True)
    pod.wait_log(container, "ready")
    for word in (b"one", b"two"):
        response = lab_of(case).client.call("Attach", container_id=container, stdin=True, stdout=True, stderr=True)
        connection = stream.WebSocket(response.url)
        connection.send(stream.STDIN, word + b"\n")
        stream.read_until(connection, b"got " + word)
        connection.close()


@suite.check("attach-tty", CLAUSE, "attach to a container with a terminal")
def attach_tty(case: Case) -> None:
    _pod, container = container_of(case, "sh", stdin=True, tty=True)
    response = lab_of(case).client.call("Attach", container_id=container, stdin=True, stdout=True, tty=True)
    connection = stream.WebSocket(response.url)
    case.defer(connection.close)
    stream.resize(connection, 101, 43)
    connection.send(stream.STDIN, b"echo mark$((40+2))\n")
    stream.read_until(connection, b"mark42")
    connection.send(stream.STDIN, b"stty size\n")
    stream.read_until(connection, b"43 101")


@suite.check("port-forward", CLAUSE, "port-forward reaches a server on the pod's localhost and one on all addresses")
def port_forward(case: Case) -> None:
    script = "mkdir -p /www; echo served > /www/index.html; httpd -p 127.0.0.1:8081 -h /www; httpd -f -p 8082 -h /www"
    pod, container = container_of(case, "sh", "-c", script)
    for port in (8081, 8082):
        wait = f"for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1:{port}/ && break; sleep 0.3; done"
        case.equal(pod.out(container, "sh", "-c", wait), "served\n", "answer inside")
        response = lab_of(case).client.call("PortForward", pod_sandbox_id=pod.id, port=[port])
        connection = stream.WebSocket(f"{response.url}?port={port}")
        case.defer(connection.close)
        connection.send(0, b"GET / HTTP/1.0\r\n\r\n")
        got = b""
        while b"served" not in got:
            message = connection.receive()
            case.expect(message is not None, f"port {port}: the stream ended after {got!r}")
            assert message is not None
            case.expect(message[0] == 0 or len(message[1]) == 2, f"port {port}: {message[1]!r}")
            got += message[1] if message[0] == 0 else b""
