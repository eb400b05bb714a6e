"""Second stage of an image: the agent's code, copied from the host's package into the guest's root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

# What of our own package runs in the guest, relative to it. Directories are taken with everything Python below them.
_OWN = ("__init__.py", "errors.py", "guest", "json_text.py", "netlink", "record.py", "ttrpc")
# The guest has a codec of its own (ttrpc/lean.py): the protobuf package would cost a tenth of the boot.
_HOST_ONLY = ("_pb2.py",)


@dataclass(frozen=True)
class AgentSources:
    """Files for the guest: path below its Python directory -> path on the host, in order of path."""

    files: tuple[tuple[str, Path], ...]
    version: str


def find_agent_sources() -> AgentSources:
    """List the files of the agent that belongs to this checkout or installation."""
    import oci_runtime

    package = Path(oci_runtime.__file__).parent
    own = [path for name in _OWN for path in _python_files(package / name)]
    files = {f"oci_runtime/{path.relative_to(package)}": path for path in own}
    return AgentSources(tuple(sorted(files.items())), oci_runtime.__version__)


def copy_agent(sources: AgentSources, target: Path) -> None:
    """Copy the files below `target`, the Python directory of the guest's root."""
    for name, source in sources.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def _python_files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else path.rglob("*.py")
    return sorted(file for file in found if not file.name.endswith(_HOST_ONLY))
