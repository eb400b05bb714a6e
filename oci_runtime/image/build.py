"""Build a guest image in two cached stages: the Debian tree (minutes at worst), then the agent on top (seconds).

Everything is made in a temporary directory of the store and renamed into place, under one lock per store.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from oci_runtime.errors import HostError, WrongState
from oci_runtime.image import recipe
from oci_runtime.image.agent import AgentSources, copy_agent, find_agent_sources
from oci_runtime.image.debian import Progress, TreeFacts, build_tree
from oci_runtime.image.digest import sha256_file
from oci_runtime.image.pmem import ALIGN_BYTES, DATA_OFFSET_BYTES, plan_header
from oci_runtime.image.rootfs import compile_directory, fix_modes
from oci_runtime.image.store import DEFAULT_NAME, MANIFEST, GuestImage, find_image, read_manifest
from oci_runtime.image.tools import require_tools, run_tool

_TREES = ".trees"
_TREE_FACTS = "tree.json"
# Sources that decide what the first stage produces.
_STAGE_ONE = ("cpio", "debian", "elf", "firststage", "initrd", "modules", "recipe", "rootfs", "vmlinux")
# Sources that decide what the second stage produces.
_STAGE_TWO = ("agent", "build", "pmem")


@dataclass(frozen=True)
class BuildSettings:
    """store: where images live. mirror: a Debian mirror, "" for Debian's own. refresh: fetch the packages again."""

    store: Path
    name: str = DEFAULT_NAME
    kernel_package: str = recipe.KERNEL_PACKAGE
    mirror: str = ""
    refresh: bool = False
    force: bool = False


def tree_key(kernel_package: str) -> str:
    """Return the key under which the first stage is cached: package list, kernel package, recipe, sources."""
    here = Path(__file__).parent
    facts = [platform.machine(), recipe.SUITE, kernel_package, *recipe.PACKAGES]
    facts += [(here / f"{name}.py").read_text() for name in _STAGE_ONE]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def expected_image_hash(store: Path, kernel_package: str = recipe.KERNEL_PACKAGE) -> str | None:
    """Return the hash of the image that this checkout's sources make, or None while the first stage is not built."""
    facts = store / _TREES / tree_key(kernel_package) / _TREE_FACTS
    try:
        return _image_hash(facts.read_bytes(), find_agent_sources())
    except FileNotFoundError:
        return None


def trees_in_use(store: Path, hashes: set[str]) -> set[str]:
    """Return the keys of the first stages that the images `hashes` were made from."""
    return {str(read_manifest(str(store / digest)).get("tree")) for digest in hashes if (store / digest).is_dir()}


def build_image(settings: BuildSettings, progress: Progress) -> GuestImage:
    """Build what is missing, point `settings.name` to the result and return it, verified.

    Raises WrongState without root, NotFound for a missing tool (it names the package), HostError when a step fails.
    After failure the store holds no part of it.
    """
    if os.geteuid() != 0:
        raise WrongState("building a guest image needs root: run it as root or with sudo")
    require_tools()
    try:
        return _build(settings, progress)
    except shutil.Error as error:
        # A tree of which some files could not be copied: (source, target, reason) of each.
        source, _, reason = error.args[0][0]
        raise HostError("copy", str(source), 0, hint=str(reason)) from error
    except OSError as error:
        raise HostError.from_oserror(error, "building in", str(error.filename or settings.store)) from error


def _build(settings: BuildSettings, progress: Progress) -> GuestImage:
    settings.store.mkdir(parents=True, exist_ok=True)
    with locked_store(settings.store, progress):
        _remove_remains(settings.store)
        tree = _ensure_tree(settings, progress)
        sources = find_agent_sources()
        digest = _image_hash((tree / _TREE_FACTS).read_bytes(), sources)
        target = settings.store / digest
        if settings.force or not (target / MANIFEST).exists():
            with _temporary(settings.store) as work:
                _assemble(tree, sources, digest, work, progress)
                _replace(work, target)
        _point(settings.store, settings.name, digest)
        return find_image(settings.store, settings.name)


def _ensure_tree(settings: BuildSettings, progress: Progress) -> Path:
    trees = settings.store / _TREES
    trees.mkdir(exist_ok=True)
    tree = trees / tree_key(settings.kernel_package)
    if settings.refresh or not (tree / _TREE_FACTS).exists():
        with _temporary(trees) as work:
            facts = build_tree(work, settings.kernel_package, settings.mirror, progress)
            content = {**asdict(facts), "sha256": {name: sha256_file(work / name) for name in ("vmlinux", "initrd")}}
            (work / _TREE_FACTS).write_text(json.dumps(content, indent=1, sort_keys=True))
            _replace(work, tree)
    return tree


def _image_hash(tree_facts: bytes, sources: AgentSources) -> str:
    digest = hashlib.sha256(tree_facts)
    digest.update(str(_epoch()).encode())
    here = Path(__file__).parent
    own = [(f"image/{name}.py", here / f"{name}.py") for name in (*_STAGE_ONE, *_STAGE_TWO)]
    for name, path in (*sources.files, *own):
        digest.update(f"\0{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _assemble(tree: Path, sources: AgentSources, digest: str, work: Path, progress: Progress) -> None:
    content = json.loads((tree / _TREE_FACTS).read_text())
    content.pop("sha256")
    facts = TreeFacts(**content)
    root = work / "root"
    progress("adding the agent")
    shutil.copytree(tree / "root", root, symlinks=True, copy_function=os.link)
    library = root / "usr/lib" / facts.python
    agent = work / "agent"
    copy_agent(sources, agent)
    compile_directory(root, agent, f"/usr/lib/{facts.python}")
    fix_modes(agent)
    shutil.copytree(agent, library, dirs_exist_ok=True)
    shutil.rmtree(agent)
    progress("writing the root image")
    write_root_image(root, work / "rootfs")
    shutil.rmtree(root)
    shutil.copyfile(tree / "vmlinux", work / "kernel")
    shutil.copyfile(tree / "initrd", work / "initrd")
    for name in ("rootfs", "kernel", "initrd"):
        (work / name).chmod(0o644)
    (work / MANIFEST).write_text(json.dumps(_manifest(facts, sources, digest, work), indent=2) + "\n")
    (work / MANIFEST).chmod(0o644)


def write_root_image(root: Path, image: Path) -> None:
    """Write `root` as an EROFS image that can be mapped (DAX): uncompressed, nothing inline, behind a header."""
    plain = image.with_suffix(".erofs")
    run_tool(
        ["mkfs.erofs", "-T", str(_epoch()), "-U", "00000000-0000-0000-0000-000000000000", "-x", "-1", "--all-root",
         "-E", "noinline_data", str(plain), str(root)]
    )  # fmt: skip
    data_bytes = plain.stat().st_size
    data_bytes += -data_bytes % ALIGN_BYTES
    with image.open("wb") as target, plain.open("rb") as source:
        target.write(plan_header(data_bytes))
        shutil.copyfileobj(source, target, 1 << 20)
        target.truncate(DATA_OFFSET_BYTES + data_bytes)
    plain.unlink()


def _manifest(facts: TreeFacts, sources: AgentSources, digest: str, work: Path) -> dict[str, object]:
    assets = {}
    for name in ("kernel", "initrd", "rootfs"):
        assets[name] = {"bytes": (work / name).stat().st_size, "sha256": sha256_file(work / name)}
    return {
        "format": 1,
        "hash": digest,
        "architecture": platform.machine(),
        "suite": recipe.SUITE,
        "tree": tree_key(facts.kernel_package),
        "source_date_epoch": _epoch(),
        "assets": assets,
        "kernel_package": facts.kernel_package,
        "kernel_release": facts.kernel_release,
        "kernel_parameters": list(recipe.KERNEL_PARAMETERS),
        "boot_modules": list(facts.boot_modules),
        "missing_modules": list(facts.missing_modules),
        "has_9p": "9p" not in facts.missing_modules,
        "agent_version": sources.version,
        "python": facts.python,
        "packages": dict(facts.packages),
    }


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or recipe.SOURCE_DATE_EPOCH)


@contextlib.contextmanager
def locked_store(store: Path, progress: Progress = lambda text: None) -> Iterator[None]:
    """Hold the store's lock: one build or removal at a time."""
    descriptor = os.open(store / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=parent))
    work.chmod(0o755)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_remains(store: Path) -> None:
    """Remove what a build that was killed left behind; the lock is ours, so none is running."""
    for parent in (store, store / _TREES):
        for path in parent.glob(".build-*"):
            shutil.rmtree(path, ignore_errors=True)


def _replace(work: Path, target: Path) -> None:
    """Rename `work` to `target`; an old one goes away after the new one is in place for all who open it by name."""
    old = target.with_name(f".build-old-{target.name}")
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _point(store: Path, name: str, digest: str) -> None:
    link = store / f".build-link-{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(digest)
    link.rename(store / name)
