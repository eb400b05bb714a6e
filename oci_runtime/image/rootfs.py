"""Pick the guest's root file system out of an extracted Debian tree: programs, their libraries, Python, configuration.

An allow-list: what no line of the recipe names is not in the image. Everything is copied, nothing is run from the tree
except its own Python interpreter, which compiles its standard library, and its busybox, which lists its applets.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from oci_runtime.errors import NotFound
from oci_runtime.image import recipe
from oci_runtime.image.elf import is_elf64, needed_libraries
from oci_runtime.image.tools import run_tool

_DIRECTORIES = (
    "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/lib",
)  # fmt: skip
_MERGED = ("bin", "lib", "lib64", "sbin")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hostname": "vmpod\n",
    "etc/ld.so.conf": "",
}


def find_triplet(tree: Path) -> str:
    """Return Debian's name of the tree's architecture, such as x86_64-linux-gnu."""
    found = sorted(path.parent.name for path in (tree / "usr/lib").glob("*-linux-gnu/libc.so.6"))
    if not found:
        raise NotFound(f"{tree} has no libc6; the package list or the mirror is broken")
    return found[0]


def find_python(tree: Path) -> str:
    """Return the name of the tree's interpreter, such as python3.11."""
    found = sorted(path.name for path in (tree / "usr/bin").glob("python3.*[0-9]"))
    if not found:
        raise NotFound(f"{tree} has no Python interpreter; the package list is broken")
    return found[-1]


def populate_root(tree: Path, root: Path) -> None:
    """Fill the empty directory `root` with everything but kernel modules and the agent."""
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _MERGED:
        (root / name).symlink_to(f"usr/{name}")
    for name, text in _FILES.items():
        (root / name).write_text(text)
    triplet, python = find_triplet(tree), find_python(tree)
    _copy_programs(tree, root, triplet, (*recipe.PROGRAMS, f"bin/{python}"))
    for directory in recipe.PLUGIN_DIRECTORIES:
        _copy_tree(tree / "usr/lib" / triplet / directory, root / "usr/lib" / triplet / directory)
    for name in recipe.CONFIGURATION:
        _copy_any(tree / name, root / name)
    (root / "usr/bin/python3").symlink_to(python)
    for link, target in recipe.PROGRAM_LINKS.items():
        (root / "usr/sbin" / link).symlink_to(target)
    _link_applets(tree, root)
    _copy_stdlib(tree, root, python)
    _copy_libraries(tree, root, triplet)


def _copy_programs(tree: Path, root: Path, triplet: str, programs: Iterable[str]) -> None:
    for name in programs:
        source = tree / "usr" / name
        if not source.exists():
            raise NotFound(f"{source} does not exist; no package of the recipe contains usr/{name} any more")
        shutil.copy2(source.resolve() if source.is_symlink() else source, root / "usr" / name)
        (root / "usr" / name).chmod(0o755)


def _copy_any(source: Path, target: Path) -> None:
    if source.is_dir():
        _copy_tree(source, target)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)


def _link_applets(tree: Path, root: Path) -> None:
    """Give busybox's applets their names wherever no real program has that name."""
    places = (root / "usr/bin", root / "usr/sbin")
    taken = {path.name for place in places for path in place.iterdir()}
    for applet in run_tool([str(tree / "usr/bin/busybox"), "--list"]).split():
        if applet not in taken:
            (root / "usr/bin" / applet).symlink_to("busybox")


def _copy_stdlib(tree: Path, root: Path, python: str) -> None:
    """Copy the standard library, compiled: each module is one .pyc file where its source would be."""
    source, target = tree / "usr/lib" / python, root / "usr/lib" / python

    def ignore(directory: str, names: list[str]) -> list[str]:
        here = Path(directory).relative_to(source)
        dropped = [name for name in names if str(here / name) in recipe.STDLIB_DROP or name == "__pycache__"]
        if here.name == "lib-dynload":
            dropped += [name for name in names if name.split(".")[0] in recipe.EXTENSION_DROP]
        return dropped + [name for name in names if name.startswith("config-")]

    shutil.copytree(source, target, symlinks=True, ignore=ignore)
    for link in [path for path in target.rglob("*") if path.is_symlink()]:
        link.unlink()  # Debian's sitecustomize, which points to /etc
    compile_directory(tree, target, f"/usr/lib/{python}")


def compile_directory(tree: Path, directory: Path, shown_as: str) -> None:
    """Replace every .py below `directory` by its .pyc, compiled by the interpreter of `tree`, the guest's.

    The result depends on nothing but the sources: unchecked-hash files carry no times, and one process compiles in
    order of path. shown_as: the directory's name in the guest, for tracebacks.
    """
    python, triplet = find_python(tree), find_triplet(tree)
    libraries = tree / "usr/lib" / triplet
    loader = next(libraries.glob("ld-linux*"))
    interpreter = [str(loader), "--library-path", str(libraries), str(tree / "usr/bin" / python), "-S"]
    command = [*interpreter, "-c", _COMPILE, str(directory), shown_as]
    run_tool(command, {"PYTHONHOME": str(tree / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"})


_COMPILE = """
import os, py_compile, sys
top, shown = sys.argv[1:]
for directory, names, files in os.walk(top):
    names.sort()
    for name in sorted(files):
        if name.endswith(".py"):
            path = os.path.join(directory, name)
            py_compile.compile(path, path + "c", shown + path[len(top):], doraise=True, optimize=0,
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            os.unlink(path)
"""


def _copy_libraries(tree: Path, root: Path, triplet: str) -> None:
    """Copy what the programs, plugins and extension modules in `root` are linked with, and what that is linked with."""
    places = (tree / "usr/lib" / triplet, tree / "usr/lib", tree / "usr/lib64")
    todo = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    done: set[str] = set()
    while todo:
        path = todo.pop()
        with path.open("rb") as file:
            if not is_elf64(file.read(8)):
                continue
        for name in needed_libraries(path.read_bytes()):
            if name in done:
                continue
            done.add(name)
            found = next((place / name for place in places if (place / name).exists()), None)
            if found is None:
                raise NotFound(f"no package of the recipe contains {name}, which {path.name} needs")
            target = root / "usr/lib" / triplet / name
            shutil.copy2(found.resolve(), target)
            todo.append(target)
    loader = next((tree / "usr/lib" / triplet).glob("ld-linux*"))
    shutil.copy2(loader.resolve(), root / "usr/lib" / triplet / loader.name)
    (root / "usr/lib" / triplet / loader.name).chmod(0o755)
    for link in (tree / "usr/lib64").iterdir():
        (root / "usr/lib64" / link.name).symlink_to(f"../lib/{triplet}/{loader.name}")
    run_tool(["ldconfig", "-X", "-r", str(root)])
    shutil.rmtree(root / "var/cache", ignore_errors=True)


def fix_modes(root: Path) -> None:
    """Make every file readable by everyone and writable by none but root, whatever umask the build ran under."""
    for path in (root, *root.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.chmod(0o755)
        elif stat.S_ISREG(mode):
            path.chmod(0o755 if mode & 0o111 else 0o644)
