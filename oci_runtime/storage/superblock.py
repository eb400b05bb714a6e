"""Which file system a disk holds, by its superblock's magic number. Pure: bytes in, a name out."""

from __future__ import annotations

# Enough for the farthest of them.
HEAD_BYTES = 0x10048 + 8
# (offset, bytes, name as mount(2) has it). Sources: the file systems' on-disk formats in the kernel's documentation.
_MAGIC = (
    (0x438, b"\x53\xef", "ext4"),  # ext2 and ext3 too: their driver is ext4's
    (0, b"XFSB", "xfs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"hsqs", "squashfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
)
NAMES = tuple(name for _, _, name in _MAGIC)
# Without a way to be written to, whatever the disk allows.
READ_ONLY = frozenset(("erofs", "squashfs"))


def detect(head: bytes) -> str:
    """The type of the file system whose first bytes these are; empty when it is none that the guest mounts."""
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""
