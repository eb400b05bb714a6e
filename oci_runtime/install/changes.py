"""Changes to an engine's files: planned as values, applied with backups, and undone to the byte.

What was done is kept in a journal below the state directory of the installation, so that a later `--uninstall` knows
what belonged to whom. A file that somebody edited in between is never overwritten: only our own block leaves it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.files import write_atomic
from oci_runtime.record import Record

JOURNALS = "/var/lib/vmpod/install"
BACKUP_SUFFIX = ".before-vmpod"


class FileChange(Record):
    """A file with new content. before: what it holds now, None when it does not exist."""

    path: str
    before: bytes | None
    after: bytes

    @property
    def is_done(self) -> bool:
        """Whether nothing has to be written."""
        return self.before == self.after


class LinkChange(Record):
    """A symbolic link. before: its present target, "" when it does not exist."""

    path: str
    before: str
    target: str

    @property
    def is_done(self) -> bool:
        """Whether the link is there already."""
        return self.before == self.target


Change = FileChange | LinkChange


def read_file(path: str) -> bytes | None:
    """The content of a file, None when there is none. Raises: HostError."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError.from_oserror(error, "read", path) from error


def read_link(path: str) -> str:
    """The target of a link, "" when nothing is there. Raises: InvalidInput when something else is."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InvalidInput(f"{path} is in the way: it is no link (move it, or remove it)") from error


def apply_changes(changes: Sequence[Change], journal: str) -> None:
    """Carry out the changes that are not done yet; each is in the journal before it is made. Raises: HostError."""
    entries = _load(journal)
    for change in changes:
        if change.is_done:
            entries += _shared(change, entries, journal)
            continue
        entries = [entry for entry in entries if entry["path"] != change.path] + [_entry(change, entries)]
        _make_directories(os.path.dirname(change.path), entries)
        _save(journal, entries)
        try:
            _make(change)
        except OSError as error:
            raise HostError.from_oserror(error, "write", change.path) from error
    _save(journal, entries)


def undo_changes(journal: str, strip: Callable[[bytes], bytes]) -> list[str]:
    """Take everything back, newest first; return what was left and why.

    strip: removes our block from a file that was edited since. Raises: HostError.
    """
    left: list[str] = []
    others = {path: _load(path) for path in _other_journals(journal)}
    for entry in reversed(_load(journal)):
        if _is_kept(entry, others):
            continue
        try:
            problem = _UNDO[str(entry["kind"])](entry, strip)
        except OSError as error:
            raise HostError.from_oserror(error, "undo", str(entry["path"])) from error
        if problem:
            left.append(problem)
    Path(journal).unlink(missing_ok=True)
    return left


def _other_journals(journal: str) -> list[str]:
    directory = os.path.dirname(journal)
    paths = (os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".json"))
    return [path for path in paths if path != journal]


def _shared(change: Change, entries: list[dict[str, str]], journal: str) -> list[dict[str, str]]:
    """The entry of a link that the installation for another engine has made: the last of them takes it away."""
    if not os.path.isdir(os.path.dirname(journal)) or change.path in [entry["path"] for entry in entries]:
        return []
    theirs = (entry for path in _other_journals(journal) for entry in _load(path))
    return [entry for entry in theirs if entry["kind"] == "link" and entry["path"] == change.path][:1]


def _is_kept(entry: dict[str, str], others: dict[str, list[dict[str, str]]]) -> bool:
    """Whether another engine needs what an entry stands for. A directory is then that one's to remove."""
    for path, entries in others.items():
        if entry["kind"] == "link" and any(other["path"] == entry["path"] for other in entries):
            return True
        if entry["kind"] == "directory" and any(other["path"].startswith(entry["path"] + "/") for other in entries):
            if entry not in entries:
                entries.insert(0, entry)
                _save(path, entries)
            return True
    return False


def _entry(change: Change, entries: list[dict[str, str]]) -> dict[str, str]:
    if isinstance(change, LinkChange):
        return {"kind": "link", "path": change.path, "before": change.before, "target": change.target}
    # The backup is that of the first installation, not of our own later version.
    earlier = next((entry for entry in entries if entry["path"] == change.path), None)
    existed = change.before is not None if earlier is None else earlier["existed"] == "yes"
    digest = hashlib.sha256(change.after).hexdigest()
    return {"kind": "file", "path": change.path, "existed": "yes" if existed else "no", "sha256": digest}


def _make(change: Change) -> None:
    if isinstance(change, LinkChange):
        if change.before:
            os.unlink(change.path)
        os.symlink(change.target, change.path)
        return
    backup = change.path + BACKUP_SUFFIX
    mode = 0o644
    if change.before is not None:
        mode = os.stat(change.path).st_mode & 0o7777
        if not os.path.exists(backup):
            write_atomic(backup, change.before, mode)
    write_atomic(change.path, change.after, mode)


def _make_directories(directory: str, entries: list[dict[str, str]]) -> None:
    missing: list[str] = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for path in reversed(missing):
        # Before the file in it, so that it goes after it.
        entries.insert(len(entries) - 1, {"kind": "directory", "path": path})
        try:
            os.mkdir(path, 0o755)
        except OSError as error:
            raise HostError.from_oserror(error, "mkdir", path) from error


def _undo_file(entry: dict[str, str], strip: Callable[[bytes], bytes]) -> str:
    path, backup = entry["path"], entry["path"] + BACKUP_SUFFIX
    content = read_file(path)
    if content is None:
        Path(backup).unlink(missing_ok=True)
        return ""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        rest = strip(content)
        if rest != content:
            write_atomic(path, rest, os.stat(path).st_mode & 0o7777)
        kept = f", {backup} is what it was before" if os.path.exists(backup) else ""
        return f"{path} was edited since: only vmpod's block was taken out{kept}"
    if entry["existed"] == "yes":
        before = read_file(backup)
        if before is None:
            return f"{path} stays as it is: its backup {backup} is gone"
        # Over the file itself, not in place of it: inode, owner and mode stay.
        with open(path, "wb") as file:
            file.write(before)
    else:
        os.unlink(path)
    Path(backup).unlink(missing_ok=True)
    return ""


def _undo_link(entry: dict[str, str], _strip: Callable[[bytes], bytes]) -> str:
    if not os.path.islink(entry["path"]) or os.readlink(entry["path"]) != entry["target"]:
        return f"{entry['path']} is not our link any more and stays"
    os.unlink(entry["path"])
    if entry["before"]:
        os.symlink(entry["before"], entry["path"])
    return ""


def _undo_directory(entry: dict[str, str], _strip: Callable[[bytes], bytes]) -> str:
    try:
        os.rmdir(entry["path"])
    except FileNotFoundError:
        return ""
    except OSError:
        return f"{entry['path']} is not empty and stays"
    return ""


_UNDO = {"file": _undo_file, "link": _undo_link, "directory": _undo_directory}


def _load(journal: str) -> list[dict[str, str]]:
    data = read_file(journal)
    if data is None:
        return []
    try:
        entries = json.loads(data)
        return [{str(key): str(value) for key, value in entry.items()} for entry in entries]
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInput(f"journal {journal} is damaged: {error}") from error


def _save(journal: str, entries: list[dict[str, str]]) -> None:
    try:
        os.makedirs(os.path.dirname(journal), mode=0o755, exist_ok=True)
    except OSError as error:
        raise HostError.from_oserror(error, "mkdir", os.path.dirname(journal)) from error
    write_atomic(journal, json.dumps(entries, indent=1).encode(), 0o644)
