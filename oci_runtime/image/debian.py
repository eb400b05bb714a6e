"""First stage of an image: a Debian tree reduced to the guest's root, its kernel and its initrd. Cached."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from oci_runtime.errors import HostError, NotFound
from oci_runtime.image import recipe
from oci_runtime.image.initrd import build_initrd, plan_first_stage
from oci_runtime.image.modules import (
    ModuleIndex,
    list_agent_modules,
    module_name,
    parse_index,
    select_modules,
    slim_module,
)
from oci_runtime.image.rootfs import find_python, fix_modes, populate_root
from oci_runtime.image.tools import run_tool
from oci_runtime.image.vmlinux import extract_vmlinux

# mmdebstrap runs this where the packages have just been unpacked, $1 being the tree: what exactly is in it. A line
# `= NAME VERSION`, then the package's files with their MD5 sums.
_LIST_PACKAGES = (
    'for deb in "$1"/var/cache/apt/archives/*.deb; do '
    "dpkg-deb --show --showformat='= ${Package} ${Version}\\n' \"$deb\"; "
    'dpkg-deb --info "$deb" md5sums 2>/dev/null || true; done > "$1"/packages.txt'
)
_MERGE_USR = 'for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"; done'

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TreeFacts:
    """What the manifest says about a tree. packages: name -> version."""

    kernel_package: str
    kernel_release: str
    python: str
    packages: Mapping[str, str]
    missing_modules: tuple[str, ...]
    boot_modules: tuple[str, ...]


def plan_mmdebstrap(tree: Path, packages: tuple[str, ...], suite: str, mirror: str) -> list[str]:
    """Return the command that unpacks `packages` and what they depend on into `tree`; mirror "" is Debian's own.

    It runs in a mount namespace of its own, so that nothing it mounts can outlive it.
    """
    command = [
        "unshare", "--mount", "--propagation", "private",
        "mmdebstrap", "--mode=root", "--variant=extract", "--format=directory",
        "--aptopt=APT::Install-Recommends \"false\"",
        f"--setup-hook={_MERGE_USR}", f"--extract-hook={_LIST_PACKAGES}",
        f"--include={','.join(packages)}", suite, str(tree),
    ]  # fmt: skip
    return [*command, mirror] if mirror else command


def build_tree(target: Path, kernel_package: str, mirror: str, progress: Progress) -> TreeFacts:
    """Fill the existing empty directory `target` with `root/`, `vmlinux` and `initrd`; needs root and a Debian mirror.

    After a failure the directory holds whatever was done; the caller removes it.
    """
    tree = target / "debian"
    progress(f"unpacking Debian {recipe.SUITE} packages with {kernel_package}")
    _unpack_packages(tree, (*recipe.PACKAGES, kernel_package), mirror)
    release = _kernel_release(tree)
    root = target / "root"
    root.mkdir()
    progress("choosing programs, libraries and the standard library")
    populate_root(tree, root)
    progress(f"kernel {release}: modules, vmlinux, initrd")
    boot, missing = _install_modules(tree, root, release, target / "initrd")
    packages = find_packages((tree / "packages.txt").read_text(), root)
    (root / "usr/share/vmpod").mkdir(parents=True)
    (root / "usr/share/vmpod/packages").write_text("".join(f"{name} {version}\n" for name, version in packages.items()))
    fix_modes(root)
    (target / "vmlinux").write_bytes(extract_vmlinux((tree / f"boot/vmlinuz-{release}").read_bytes()))
    facts = TreeFacts(kernel_package, release, find_python(tree), packages, missing, boot)
    shutil.rmtree(tree)
    return facts


def _unpack_packages(tree: Path, packages: tuple[str, ...], mirror: str) -> None:
    try:
        run_tool(plan_mmdebstrap(tree, packages, recipe.SUITE, mirror))
    except HostError as error:
        # Its first complaint is the cause, the others follow from it.
        cause = next((line[3:] for line in error.detail.splitlines() if line.startswith("E: ")), "")
        if not cause:
            raise
        raise HostError("mmdebstrap", recipe.SUITE, 0, hint=cause, detail=error.detail) from error


def agent_command(python: str) -> tuple[str, ...]:
    """Return the argv of the agent in the guest: isolated from the environment, without site."""
    return (f"/usr/bin/{python}", "-I", "-S", "-c", "from oci_runtime.guest.main import main; main()")


def _kernel_release(tree: Path) -> str:
    found = sorted(path.name for path in (tree / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise NotFound(f"expected one kernel below {tree}/usr/lib/modules, found {', '.join(found) or 'none'}")
    return found[0]


def find_packages(listing: str, root: Path) -> dict[str, str]:
    """Return name -> version of the packages that `root` has a file of. listing: see _LIST_PACKAGES.

    A file is known by its content, wherever it went; compiled Python and stripped kernel modules by their place.
    """
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    known = {hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}
    places = {str(path.relative_to(root)) for path in files if path.suffix in (".pyc", ".ko")}
    found = {}
    name = version = ""
    for line in listing.splitlines():
        first, _, rest = line.partition(" ")
        path = rest.strip()
        if first == "=":
            name, _, version = rest.partition(" ")
        elif first in known or not places.isdisjoint((path + "c", f"usr/{path}", path)):
            found[name] = version
    return dict(sorted(found.items()))


def _install_modules(tree: Path, root: Path, release: str, initrd: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy the recipe's modules into `root`, write `initrd`; return (initrd modules, absent names)."""
    source, target = tree / "usr/lib/modules" / release, root / "usr/lib/modules" / release
    run_tool(["depmod", "-b", str(tree), release])
    index = parse_index(*((source / f"modules.{name}").read_text() for name in ("dep", "softdep", "alias")))
    chosen, missing = select_modules(recipe.ROOT_MODULES, index)
    builtin = {module_name(path) for path in (source / "modules.builtin").read_text().split()}
    missing = tuple(name for name in missing if name.replace("-", "_") not in builtin)
    for path in chosen:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(slim_module(_module_bytes(source / path)))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(source / name, target / name)
    run_tool(["depmod", "-b", str(root), release])
    (target / "modules.agent").write_text(list_agent_modules(recipe.AGENT_MODULES, recipe.BOOT_MODULES, index))
    boot = _write_initrd(tree, release, index, initrd)
    return boot, missing


def _write_initrd(tree: Path, release: str, index: ModuleIndex, initrd: Path) -> tuple[str, ...]:
    """Write the first stage; return the names of its modules."""
    source = tree / "usr/lib/modules" / release
    boot, absent = select_modules((*recipe.BOOT_MODULES, *recipe.DEVICE_MODULES.values()), index)
    if absent:
        raise NotFound(f"kernel {release} lacks {', '.join(absent)}, which the guest cannot boot without")
    modules = {module_name(path): slim_module(_module_bytes(source / path)) for path in boot}
    common, _ = select_modules(recipe.BOOT_MODULES, index)
    special = {
        device: tuple(module_name(path) for path in select_modules((module,), index)[0] if path not in common)
        for device, module in recipe.DEVICE_MODULES.items()
    }
    initrd.write_bytes(build_initrd(plan_first_stage(modules, special, agent_command(find_python(tree)))))
    return tuple(modules)


def _module_bytes(path: Path) -> bytes:
    if path.suffix != ".ko":
        raise HostError("read", str(path), 0, hint="packed kernel modules are not supported")
    return path.read_bytes()
