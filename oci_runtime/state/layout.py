"""Where things are in the state directory (`--root`), and who may touch it."""

from __future__ import annotations

import errno
import os
import stat

from oci_runtime.errors import HostError, InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha256 import sha256  # hashlib would load OpenSSL
    except ImportError:
        from hashlib import sha256

DEFAULT_ROOT = "/run/vmpod"
SANDBOXES = ".sandboxes"
DELEGATED = ".delegated"
STATE_FILE = "state.json"
SANDBOX_FILE = "sandbox.json"
LOCK_FILE = "lock"
ERROR_FILE = "error.json"
CONSOLE_LOG = "console.log"
SANDBOX_LOG = "sandbox.log"
TIMELINE_FILE = "timeline.json"
_TRIES = 100
# In the environment of each proxy, and first there. Nothing else ties an exec's proxy to its container.
PROXY_MARK = "VMPOD_PROXY"


def short_id(sandbox_id: str) -> str:
    """Return the directory name of a sandbox: 16 hexadecimal digits, so that socket paths stay short."""
    return sha256(sandbox_id.encode()).hexdigest()[:16]


class Layout:
    """The paths below one state directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def container(self, container_id: str) -> str:
        """Return the directory of a container."""
        return os.path.join(self.root, container_id)

    def state_file(self, container_id: str) -> str:
        """Return the path of a container's record."""
        return os.path.join(self.root, container_id, STATE_FILE)

    def sandbox(self, sandbox_id: str) -> str:
        """Return the directory of a sandbox."""
        return os.path.join(self.root, SANDBOXES, short_id(sandbox_id))

    def delegated(self, container_id: str) -> str:
        """Return the file that says which namespace runtime has a container."""
        return os.path.join(self.root, DELEGATED, container_id)

    def prepare(self) -> None:
        """Create the state directory. Raises HostError; InvalidInput when others could write to it."""
        for attempt in range(_TRIES):
            try:
                os.makedirs(os.path.dirname(self.root), mode=0o755, exist_ok=True)
                for path in (self.root, os.path.join(self.root, SANDBOXES)):
                    make_private_directory(path)
                return
            except (FileNotFoundError, FileExistsError) as error:
                if _is_file(error.filename):
                    raise HostError("mkdir", str(error.filename), errno.ENOTDIR) from error
                # Between two of them somebody else's `discard` has taken the upper one away.
                if attempt == _TRIES - 1:
                    raise HostError.from_oserror(error, "mkdir", self.root) from error
            except OSError as error:
                hint = "vmpod must run as root" if os.geteuid() else ""
                raise HostError.from_oserror(error, "mkdir", str(error.filename or self.root), hint=hint) from error

    def discard(self) -> None:
        """Remove the state directory if it is empty: nobody who makes something in it now is disturbed, see `prepare`.

        For directories that nobody but vmpod has chosen; an engine's --root is the engine's.
        """
        for path in (os.path.join(self.root, SANDBOXES), self.root):
            try:
                os.rmdir(path)
            except OSError:
                continue


def _is_file(path: str) -> bool:
    """Whether something that is no directory is there, in one look: directories come and go."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def make_private_directory(path: str) -> None:
    """Create a directory with mode 0700, or check that an existing one cannot be written by others.

    Engines create the root on their own, often with 0755: that is accepted. Raises OSError, InvalidInput.
    """
    try:
        os.mkdir(path, 0o700)
        return
    except FileExistsError:
        status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022 and not status.st_mode & 0o1000:
        raise InvalidInput(
            f"state directory {path} can be written by others (mode {status.st_mode & 0o7777:o},"
            f" owner {status.st_uid}): choose another --root or run chmod go-w on it"
        )
