"""Give the files of a volume to a group, as Kubernetes' fsGroup asks: group, rights, set-group-ID directories."""

from __future__ import annotations

import os
import stat

_FILE_BITS = stat.S_IRGRP | stat.S_IWGRP
_DIRECTORY_BITS = _FILE_BITS | stat.S_IXGRP | stat.S_ISGID


def give_to_group(root: str, group: int, *, only_on_mismatch: bool) -> None:
    """Change group and mode of everything below `root`, by descriptors: no symbolic link is followed.

    only_on_mismatch: nothing to do if the root directory has the group and its bits already. The root comes last, so
    that it tells whether an earlier attempt came to its end. Raises OSError.
    """
    status = os.stat(root)
    if only_on_mismatch and status.st_gid == group and status.st_mode & _DIRECTORY_BITS == _DIRECTORY_BITS:
        return
    for _, directories, files, directory_fd in os.fwalk(root, topdown=False, follow_symlinks=False):
        for name in (*directories, *files):
            _give(name, directory_fd, group)
    os.chown(root, -1, group)
    os.chmod(root, stat.S_IMODE(status.st_mode) | _DIRECTORY_BITS)


def _give(name: str, directory_fd: int, group: int) -> None:
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    os.chown(name, -1, group, dir_fd=directory_fd, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return
    bits = _DIRECTORY_BITS if stat.S_ISDIR(status.st_mode) else _FILE_BITS
    os.chmod(name, stat.S_IMODE(status.st_mode) | bits, dir_fd=directory_fd)
