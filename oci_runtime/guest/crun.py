"""crun, which runs the containers inside the guest: its command line, and its errors in the words that engines know."""

from __future__ import annotations

import os

from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable
from oci_runtime.guest.log import log
from oci_runtime.guest.reaper import ENVIRONMENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

ROOT = "/run/crun"
_MAX_LOG_BYTES = 64 << 10
_DEFAULT_S = 60.0
# crun starts itself once more from a copy that no container can write to (CVE-2019-5736). With this variable it first
# looks whether the file system that it is on is read-only, as the image's is: then nothing is left to protect.
_ENVIRONMENT = {**ENVIRONMENT, "_LIBCONTAINER_CLONED_BINARY": "1"}


def run_crun(
    agent: Agent, words: list[str], *, log_path: str, stdio: tuple[int, ...], program: str = "",
    timeout_s: float = _DEFAULT_S,
) -> None:  # fmt: skip
    """Run one crun command to its end in a worker thread.

    log_path: a file for crun's messages, removed afterwards. program: what the container was to run, for the error.
    Raises NotFound for a missing program, else OciRuntimeError with crun's message; Unavailable at the deadline.
    """
    # As text: what goes wrong behind `start` is told by the container's process, on the container's standard error.
    argv = ["crun", "--root", ROOT, "--cgroup-manager", "cgroupfs", "--log", log_path, "--log-format", "text", *words]
    try:
        child = agent.reaper.spawn(argv, stdio=stdio, environment=_ENVIRONMENT)
        try:
            code = child.wait(timeout_s)
        except Unavailable:
            agent.reaper.kill(child, 9)
            raise
        if code:
            raise translate(_last_message(log_path) or f"crun {words[0]} exited with {code}", program)
    finally:
        try:
            os.unlink(log_path)
        except FileNotFoundError:
            pass


def let_run(container_id: str) -> bool:
    """What `crun start` does: write to the fifo that the container's process waits at, which takes the name away.

    The program alone would cost an emulated guest longer than the rest of a start. Returns False where nobody waits
    at such a fifo: then crun itself has to be asked, and says why.
    """
    path = f"{ROOT}/{container_id}/exec.fifo"
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        os.unlink(path)
        os.write(fifo, b"\0")
    finally:
        os.close(fifo)
    return True


def remove_state(container_id: str) -> None:
    """Remove what crun keeps about a container whose processes have ended."""
    remove_tree(f"{ROOT}/{container_id}")


def remove_tree(path: str) -> None:
    """Remove a directory of the agent's own, symbolic links not followed. Idempotent."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(f"removing {path}: {error}")


def translate(message: str, program: str) -> OciRuntimeError:
    """crun's message as runc would have put it, where engines compare the text."""
    quoted, found, _ = message.partition(" not found in $PATH")
    _, quote, name = quoted.rpartition("executable file `")
    if found and quote:
        name = name.rstrip("'`")
        if "/" in name:
            return NotFound(f'exec: "{name}": stat {name}: no such file or directory')
        return NotFound(f'exec: "{name}": executable file not found in $PATH')
    reason = message.rpartition(": ")[2]
    if program and message.startswith("open executable: "):
        # For a directory crun reports EPERM.
        text = "is a directory: permission denied" if reason == "Operation not permitted" else reason.lower()
        return OciRuntimeError(f'exec: "{program}": {text}')
    if program and message.startswith("exec") and reason in ("No such file or directory", "Exec format error"):
        return OciRuntimeError(f'exec: "{program}": {reason.lower()}')
    return OciRuntimeError(_lower_reason(message))


def _lower_reason(message: str) -> str:
    """`…: Permission denied` with the reason in lower case, as every other error has it."""
    head, colon, reason = message.rpartition(": ")
    return f"{head}{colon}{reason[:1].lower()}{reason[1:]}" if colon else message


def _last_message(path: str) -> str:
    """The last line of crun's log, without the time that some versions put before it."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_LOG_BYTES).decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    stamp, mark, message = last.partition("Z: ")
    return message if mark and stamp[:4].isdigit() and " " not in stamp else last
