"""The programs that building an image runs on the host, and the Debian packages that bring them."""

from __future__ import annotations

import shutil
import subprocess

from oci_runtime.errors import HostError, NotFound

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGE_OF = {
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "ldconfig": "libc-bin",
    "lz4": "lz4",
    "mkfs.erofs": "erofs-utils",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "zstd": "zstd",
}


def require_tools() -> None:
    """Raise NotFound that lists every missing program with its package."""
    missing = {tool: package for tool, package in _PACKAGE_OF.items() if shutil.which(tool, path=PATH) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise NotFound(f"building a guest image needs {', '.join(missing)}; install them: apt-get install {packages}")


def run_tool(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a program to its end and return its output as text; errors as in `run_filter`.

    environment: all of it; the default is a plain one, so that the caller's variables cannot change an image.
    """
    return run_filter(command, b"", environment).decode("utf-8", "replace")


def run_filter(command: list[str], data: bytes, environment: dict[str, str] | None = None) -> bytes:
    """Run a program with `data` on its standard input and return its output.

    Raises NotFound for a missing program, HostError with its last line (all of it in `detail`) when it fails.
    """
    env = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"} if environment is None else environment
    program = shutil.which(command[0], path=PATH)
    if program is None:
        package = _PACKAGE_OF.get(command[0], command[0])
        raise NotFound(f"{command[0]} is not installed; install it: apt-get install {package}")
    done = subprocess.run([program, *command[1:]], input=data, capture_output=True, env=env, check=False)
    if done.returncode != 0:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-4000:]
        last = text.splitlines()[-1] if text else f"exit status {done.returncode}"
        raise HostError(command[0], " ".join(command[1:])[:80], 0, hint=last, detail=text)
    return done.stdout
