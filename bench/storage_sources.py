"""What the storage benchmark clones and installs: a repository, wheels, and the pip that Debian's venv has."""

from __future__ import annotations

import os
import random
import subprocess
import zipfile
from pathlib import Path

FILES = 1_000
WHEELS = 4
MODULES = 50
_SEED = 1
_IDENTITY = {"GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@localhost"}
_COMMITTER = {"GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@localhost"}


def make_repository(path: Path) -> None:
    """A bare repository with one commit of many small files, packed."""
    tree = path.parent / "tree"
    chance = random.Random(_SEED)
    for number in range(FILES):
        file = tree / f"part{number % 40}" / f"file{number}.c"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"int value{chance.randrange(10**9)};\n" for _ in range(100)))
    environment = {**os.environ, **_IDENTITY, **_COMMITTER, "GIT_CONFIG_GLOBAL": "/dev/null"}

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tree), *arguments], check=True, env=environment)

    git("init", "-q")
    git("add", "--all")
    git("commit", "-q", "-m", "all")
    git("repack", "-a", "-d", "-q")
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(path)], check=True, env=environment)


def make_wheels(directory: Path) -> None:
    """Wheels without dependencies, each with a package of small modules."""
    directory.mkdir(parents=True)
    for number in range(WHEELS):
        name = f"package{number}"
        info = f"{name}-1.0.dist-info"
        files = {
            f"{name}/module{module}.py": "".join(
                f"def function{line}(value):\n    return value + {line}\n" for line in range(20)
            )
            for module in range(MODULES)
        }
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
        with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)


def unpack_pip(directory: Path) -> None:
    """The pip that belongs to the system's Python (python3-venv needs its wheel), unpacked and byte-compiled."""
    found = sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not found:
        raise FileNotFoundError("/usr/share/python-wheels/pip-*.whl (apt-get install python3-venv)")
    with zipfile.ZipFile(found[-1]) as wheel:
        wheel.extractall(directory)
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(directory)], check=True)
