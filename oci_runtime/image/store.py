"""Find a guest image in the store and make sure that it is what was built. On the way of each boot: import little.

Layout: `<store>/<hash>/{manifest.json,kernel,initrd,rootfs,stamp.json}`; `<store>/<name>` is a symlink to a hash.
"""

from __future__ import annotations

import os

from oci_runtime import json_text
from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_STORE = "/var/cache/vmpod/images"
DEFAULT_NAME = "default"
MANIFEST = "manifest.json"
_STAMP = "stamp.json"
_FORMAT = 1
_ASSETS = ("kernel", "initrd", "rootfs")
_MAX_NAME = 64
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


class GuestImage(Record):
    """A verified image. Paths are absolute and world-readable; QEMU reads them as an unprivileged user.

    image_bytes: size of `rootfs`, as the memory backend and the NVDIMM need it. kernel_parameters: what the image needs
    on the kernel command line, before anything of the machine's or the user's. has_9p: the kernel can mount 9p.
    """

    name: str
    hash: str
    directory: str
    kernel: str
    initrd: str
    rootfs: str
    image_bytes: int
    kernel_parameters: tuple[str, ...]
    kernel_release: str
    agent_version: str
    has_9p: bool


def is_image_name(name: str) -> bool:
    """Whether an image may have this name."""
    return 0 < len(name) <= _MAX_NAME and name[0] not in "._-" and _NAME_CHARS.issuperset(name)


def find_image(store: str | os.PathLike[str], name: str = DEFAULT_NAME) -> GuestImage:
    """Return the image that `name` (or a hash) stands for, its files verified.

    The SHA-256 of a file is computed when its inode, size, mtime or ctime differ from those of the last verification.
    Raises NotFound without such an image; InvalidInput for a bad name, a broken manifest or a changed file.
    """
    image, _ = load_image(store, name)
    verify_image(image)
    return image


def load_image(store: str | os.PathLike[str], name: str) -> tuple[GuestImage, dict[str, Any]]:
    """Return image and manifest without looking at the assets' content; errors as in `find_image`."""
    if not is_image_name(name):
        raise InvalidInput(f"bad image name {name!r}: small letters, digits, '.', '_' and '-' are allowed")
    link = os.path.join(os.fspath(store), name)
    directory = os.path.realpath(link)
    manifest = read_manifest(directory, link)
    try:
        assets = manifest["assets"]
        image = GuestImage(
            name=name,
            hash=str(manifest["hash"]),
            directory=directory,
            **{asset: os.path.join(directory, asset) for asset in _ASSETS},
            image_bytes=int(assets["rootfs"]["bytes"]),
            kernel_parameters=tuple(str(parameter) for parameter in manifest["kernel_parameters"]),
            kernel_release=str(manifest["kernel_release"]),
            agent_version=str(manifest["agent_version"]),
            has_9p=bool(manifest["has_9p"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{directory}/{MANIFEST} is broken ({error!r}); build the image again: vmpod image build"
        ) from error
    return image, manifest


def list_images(store: str | os.PathLike[str]) -> list[GuestImage]:
    """Return the named images in order of name, unverified; broken ones are left out."""
    try:
        names = sorted(entry.name for entry in os.scandir(store) if entry.is_symlink() and is_image_name(entry.name))
    except FileNotFoundError:
        return []
    images = []
    for name in names:
        try:
            images.append(load_image(store, name)[0])
        except (NotFound, InvalidInput):
            continue
    return images


def read_manifest(directory: str, shown_as: str = "") -> dict[str, Any]:
    """Return the manifest of the image in `directory`; NotFound or InvalidInput, which names the remedy."""
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, "rb") as file:
            manifest = json_text.loads(file.read())
    except FileNotFoundError as error:
        name = os.path.basename(shown_as)
        option = "" if name in ("", DEFAULT_NAME) else f" --name {name}"
        raise NotFound(f"no guest image at {shown_as or directory}; build it: vmpod image build{option}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}); build the image again: vmpod image build") from error
    except OSError as error:
        raise HostError.from_oserror(error, "open", path) from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InvalidInput(f"{path} is of another version of vmpod; build the image again: vmpod image build")
    return manifest


def verify_image(image: GuestImage, *, always: bool = False) -> None:
    """Compare each asset with the manifest. always: hash them even when the stamp says that nothing changed.

    Raises InvalidInput that names the file, both hashes and the remedy; NotFound when an asset is gone.
    """
    facts = {}
    for asset in _ASSETS:
        path = os.path.join(image.directory, asset)
        try:
            found = os.stat(path)
        except FileNotFoundError as error:
            raise NotFound(f"the guest image lacks {path}; build it again: vmpod image build --force") from error
        facts[asset] = [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    stamp = os.path.join(image.directory, _STAMP)
    if not always and _read_stamp(stamp) == facts:
        return
    from oci_runtime.image.digest import check_assets, write_stamp

    check_assets(image.directory, read_manifest(image.directory), _ASSETS)
    write_stamp(stamp, facts)


def _read_stamp(path: str) -> object:
    try:
        with open(path, "rb") as file:
            return json_text.loads(file.read())
    except (OSError, ValueError):
        return None
