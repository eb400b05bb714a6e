"""The pure parts of an image: module lists, initrd, pmem header, recipe."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.image import recipe
from oci_runtime.image.agent import find_agent_sources
from oci_runtime.image.build import tree_key
from oci_runtime.image.cpio import CpioArchive
from oci_runtime.image.debian import find_packages, plan_mmdebstrap
from oci_runtime.image.modules import module_name, parse_index, select_modules, slim_module
from oci_runtime.image.pmem import ALIGN_BYTES, DATA_OFFSET_BYTES, fletcher64, plan_header
from tests.image_lab import elf_file

INDEX = parse_index(
    "kernel/drivers/virtio/virtio.ko:\n"
    "kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n"
    "kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n"
    "kernel/net/netfilter/xt_owner.ko:\n"
    "kernel/net/netfilter/nf_nat.ko:\n"
    "kernel/arch/x86/crypto/crc32c-intel.ko:\n"
    "kernel/crypto/crc32c_generic.ko:\n"
    "kernel/lib/libcrc32c.ko:\n"
    "kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko\n",
    "# a comment\nsoftdep xt_owner pre: nf-nat absent post: virtio_ring\nsoftdep libcrc32c pre: crc32c\n"
    "softdep nf_nat pre: xt_owner\n",
    "# a comment\nalias crc32c crc32c_intel\nalias crc32c crc32c_generic\n"
    "alias crc32c other\nalias pci:v1AF4* virtio_pci\n",
)


def test_modules_dep_is_turned_round() -> None:
    assert INDEX.needs["kernel/drivers/net/virtio_net.ko"] == (
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_ring.ko",
    )


def test_selection_puts_dependencies_first_and_names_what_is_missing() -> None:
    paths, missing = select_modules(("virtio-net", "crc32c_intel", "9p", "net/sched/"), INDEX)
    assert [module_name(path) for path in paths] == [
        "virtio", "virtio_ring", "virtio_net", "crc32c_intel",
    ]  # fmt: skip
    assert missing == ("9p", "net/sched/")


def test_directories_are_taken_whole() -> None:
    paths, _ = select_modules(("drivers/virtio/", "net/netfilter/"), INDEX)
    assert set(map(module_name, paths)) == {"virtio", "virtio_ring", "nf_nat", "xt_owner"}


@pytest.mark.parametrize(
    ("wanted", "closure"),
    [
        ("erofs", ["crc32c_generic", "libcrc32c", "erofs"]),
        ("nf_nat", ["virtio", "virtio_ring", "xt_owner", "nf_nat"]),
    ],
    ids=["by-alias", "in-a-circle"],
)
def test_what_a_module_wants_beside_it_comes_first(wanted: str, closure: list[str]) -> None:
    paths, missing = select_modules((wanted,), INDEX)
    assert [module_name(path) for path in paths] == closure
    assert missing == ()


def test_a_module_loses_its_signature_and_the_name_of_its_types() -> None:
    module = elf_file(sections={b".text": 0, b".BTF": 0, b".BTF_ids": 0})
    signature = b"S" * 300
    trailer = bytes(8) + struct.pack(">I", len(signature)) + b"~Module signature appended~\n"
    slim = slim_module(module + signature + trailer)
    assert len(slim) == len(module)
    assert [index for index in range(len(module)) if slim[index] != module[index]], "the section's name has changed"
    assert slim_module(slim) == slim
    assert slim_module(elf_file(sections={b".text": 0})) == elf_file(sections={b".text": 0})


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = CpioArchive()
    archive.add_directory("a")
    archive.add_file("a/file", b"odd", 0o755)
    archive.add_file("a/empty", b"")
    data = archive.finish()
    assert len(data) % 512 == 0
    subprocess.run(["busybox", "cpio", "-i"], input=data, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/file").read_bytes() == b"odd"
    assert (tmp_path / "a/file").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/empty").read_bytes() == b""


def test_header_checksum_and_fields() -> None:
    header = plan_header(32 * ALIGN_BYTES)
    block = header[4096:8192]
    assert len(header) == DATA_OFFSET_BYTES
    assert header[:4096] == bytes(4096)
    assert block.startswith(b"NVDIMM_PFN_INFO\0")
    offset, pages = struct.unpack_from("<QQ", block, 56)
    assert (offset, pages) == (DATA_OFFSET_BYTES, 32 * ALIGN_BYTES // 4096)
    (checksum,) = struct.unpack_from("<Q", block, 4088)
    assert checksum == fletcher64(block[:4088] + bytes(8))


def test_fletcher64_of_known_words() -> None:
    assert fletcher64(struct.pack("<3I", 1, 2, 3)) == (1 + 3 + 6) << 32 | 6
    assert fletcher64(b"\xff" * 8) == (0xFFFFFFFF + 0xFFFFFFFE) % (1 << 32) << 32 | 0xFFFFFFFE


@pytest.mark.parametrize("size", [0, -ALIGN_BYTES, ALIGN_BYTES + 4096])
def test_header_refuses_sizes_that_cannot_be_mapped(size: int) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        plan_header(size)


def test_packages_are_found_by_content_and_by_place(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3.11").mkdir(parents=True)
    (tmp_path / "usr/lib/python3.11/os.pyc").write_bytes(b"compiled")
    (tmp_path / "renamed.so.1").write_bytes(b"library")
    (tmp_path / "link").symlink_to("renamed.so.1")
    listing = (
        "= libpython 3.11.2-6\n00000000000000000000000000000000  usr/lib/python3.11/os.py\n"
        "= liba 1:2.0-1\n8b89bee3ad8eb3ec9e1a1f2f0c7ed3a1  usr/lib/liba.so.1.2\n"
        f"= libb 3\n{_md5(b'library')}  usr/lib/libb.so.1.0\n"
        "= empty 1\n= link 1\nffffffffffffffffffffffffffffffff  link\n"
    )
    assert find_packages(listing, tmp_path) == {"libb": "3", "libpython": "3.11.2-6"}


def _md5(data: bytes) -> str:
    return subprocess.run(["md5sum"], input=data, capture_output=True, check=True).stdout.split()[0].decode()


def test_packages_are_unpacked_in_a_mount_namespace_of_their_own() -> None:
    command = plan_mmdebstrap(Path("/work"), ("a", "b"), "bookworm", "")
    assert command[:5] == ["unshare", "--mount", "--propagation", "private", "mmdebstrap"]
    assert command[-3:] == ["--include=a,b", "bookworm", "/work"]
    assert plan_mmdebstrap(Path("/work"), ("a",), "bookworm", "http://mirror/debian")[-1] == "http://mirror/debian"


def test_each_kernel_package_has_a_tree_of_its_own() -> None:
    assert tree_key("linux-image-amd64") != tree_key("linux-image-cloud-amd64") == tree_key(recipe.KERNEL_PACKAGE)


def test_the_agent_s_sources_are_those_of_the_guest() -> None:
    names = [name for name, _ in find_agent_sources().files]
    assert {"oci_runtime/__init__.py", "oci_runtime/errors.py", "oci_runtime/guest/main.py"} <= set(names)
    assert not [name for name in names if name.endswith("_pb2.py") or "__pycache__" in name or "/sandbox/" in name]
    assert names == sorted(names)


def test_parameters_have_no_spaces_and_no_doubles() -> None:
    assert not [parameter for parameter in recipe.KERNEL_PARAMETERS if " " in parameter]
    names = [parameter.partition("=")[0] for parameter in recipe.KERNEL_PARAMETERS]
    assert len(names) == len(set(names))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ELF"):
        slim_module(b"not a module")
