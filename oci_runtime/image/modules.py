"""Kernel modules of the guest: which ones, in which order, and made quick to load.

Source: depmod's modules.dep; linux/module_signature.h; System V ABI (section headers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from oci_runtime.image.elf import find_section

_SIGNATURE_MAGIC = b"~Module signature appended~\n"


@dataclass(frozen=True)
class ModuleIndex:
    """What depmod knows.

    needs: module path -> paths that must be loaded before it, in that order. wants: module name -> names or aliases
    that it asks for while it starts. aliases: exact alias -> module name, if possible one for every processor.
    """

    needs: Mapping[str, tuple[str, ...]]
    wants: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]

    @cached_property
    def paths(self) -> dict[str, str]:
        """Module name -> path."""
        return {module_name(path): path for path in self.needs}

    def find(self, name: str) -> str | None:
        """Return the path of the module called `name`, or None."""
        return self.paths.get(name.replace("-", "_"))

    def closure(self, path: str) -> tuple[str, ...]:
        """Return the module and all that it needs or wants, in loading order."""
        order: dict[str, None] = {}
        self._add(path, order, set())
        return tuple(order)

    def _add(self, path: str, order: dict[str, None], begun: set[str]) -> None:
        if path in begun:
            return
        begun.add(path)
        for other in self.needs[path]:
            self._add(other, order, begun)
        for word in self.wants.get(module_name(path), ()):
            wanted = self.find(word) or self.find(self.aliases.get(word, ""))
            if wanted:
                self._add(wanted, order, begun)
        order[path] = None


def parse_index(dep: str, softdep: str, alias: str) -> ModuleIndex:
    """Return what stands in depmod's modules.dep, modules.softdep and modules.alias."""
    needs = {}
    for line in dep.splitlines():
        path, _, others = line.partition(":")
        if path:
            needs[path] = tuple(reversed(others.split()))
    wants: dict[str, tuple[str, ...]] = {}
    for line in softdep.splitlines():
        words = line.split()
        if words[:1] == ["softdep"]:
            names = (word for word in words[2:] if not word.endswith(":"))
            wants[words[1]] = (*wants.get(words[1], ()), *names)
    aliases: dict[str, str] = {}
    for line in alias.splitlines():
        words = line.split()
        if words[:1] == ["alias"] and len(words) == 3 and (words[1] not in aliases or words[2].endswith("_generic")):
            aliases[words[1]] = words[2]
    return ModuleIndex(needs, wants, aliases)


def module_name(path: str) -> str:
    """Return the name under which the kernel knows the module file at `path`."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def select_modules(wanted: Iterable[str], index: ModuleIndex) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (paths in loading order, wanted names that do not exist).

    wanted: module names, or directories below `kernel/` that end in "/" and are taken whole, in order of path.
    """
    chosen: dict[str, None] = {}
    missing = []
    for name in wanted:
        if name.endswith("/"):
            found = sorted(path for path in index.needs if path.startswith(f"kernel/{name}"))
        else:
            path = index.find(name)
            found = [path] if path else []
        if not found:
            missing.append(name)
        for path in found:
            chosen.update(dict.fromkeys(index.closure(path)))
    return tuple(chosen), tuple(missing)


def list_agent_modules(wanted: Iterable[str], loaded: Iterable[str], index: ModuleIndex) -> str:
    """Return the agent's list (guest/modules.py): a line for each wanted module that exists, its name and the paths to
    load in their order. loaded: names of modules that every guest has when the agent starts.
    """
    present, _ = select_modules(loaded, index)
    lines = []
    for name in wanted:
        path = index.find(name)
        if path:
            lines.append(" ".join((name, *(other for other in index.closure(path) if other not in present))) + "\n")
    return "".join(lines)


def slim_module(data: bytes) -> bytes:
    """Return the module without its signature and with its type information (BTF) out of the kernel's sight.

    The whole image is covered by a hash on the host; checking an RSA signature and parsing BTF for each module
    would only cost the guest's start-up time.
    """
    if data.endswith(_SIGNATURE_MAGIC):
        trailer = len(data) - len(_SIGNATURE_MAGIC) - 12
        (signature_bytes,) = struct.unpack_from(">I", data, trailer + 8)
        data = data[: trailer - signature_bytes]
    types = find_section(data, b".BTF")
    if types is None:
        return data
    # The name's place in the string table: 0 is the empty name.
    return data[: types.header_offset] + bytes(4) + data[types.header_offset + 4 :]
