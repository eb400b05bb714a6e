"""Write a cpio archive ("newc") for an initrd: bytes only, all owned by root, no times.

Source: the kernel's initramfs buffer format.
"""

from __future__ import annotations

import stat


class CpioArchive:
    """Collects entries; `finish` returns the archive. Parents must be added before their children."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add_directory(self, name: str, mode: int = 0o755) -> None:
        self._add(name, stat.S_IFDIR | mode, b"")

    def add_file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, content)

    def add_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._add(name, stat.S_IFCHR | mode, b"", major, minor)

    def finish(self) -> bytes:
        """Return the archive, padded to 512 bytes."""
        self._inode = -1
        self._add("TRAILER!!!", 0, b"")
        archive = b"".join(self._parts)
        return archive + bytes(-len(archive) % 512)

    def _add(self, name: str, mode: int, content: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts.append(header + path + bytes(-(len(header) + len(path)) % 4))
        self._parts.append(content + bytes(-len(content) % 4))
