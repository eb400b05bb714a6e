"""What a wheel holds is enough: the package alone, wherever it lies, without the repository around it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel's packages are, and nothing else."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.mark.parametrize(
    ("script", "words", "shown"),
    [
        ("vmpod", ["--version"], "vmpod version "),
        ("vmpod", ["spec", "--bundle", "{bundle}"], ""),
        ("vmpod", ["spec", "check", "{bundle}"], ""),
        ("vmpod", ["features"], '"ociVersionMax"'),
        ("vmpod", ["config", "show"], "[vm]"),
        ("vmpod", ["image", "build", "--help"], "usage"),
        ("vmpod", ["install", "crio", "--dry-run", "--drop-ins", "{bundle}", "--bin-dir", "{bundle}"], "10-vmpod.conf"),
        ("containerd-shim-vmpod-v2", ["-v"], "io.containerd.vmpod.v2"),
    ],
)
def test_the_package_alone_is_enough(
    package: Path, tmp_path_factory: pytest.TempPathFactory, script: str, words: list[str], shown: str
) -> None:
    bundle = tmp_path_factory.getbasetemp() / "packaged"
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    for name in ("vmpod", "containerd-shim-vmpod-v2"):
        (bundle / name).touch(0o755)
    module, function = PROJECT["project"]["scripts"][script].split(":")
    places = [str(package), sysconfig.get_path("purelib")]
    program = f"import sys; sys.path += {places}; sys.argv[0] = {script!r}; from {module} import {function} as main; "
    command = [sys.executable, "-I", "-S", "-c", f"{program}sys.exit(main())"]
    done = subprocess.run(
        [*command, *(word.format(bundle=bundle) for word in words)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_launchers_start_what_the_wheel_starts(tmp_path: Path) -> None:
    subprocess.run(["sh", REPOSITORY / "scripts" / "launcher.sh", tmp_path, sys.executable, REPOSITORY], check=True)
    scripts = PROJECT["project"]["scripts"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(scripts)
    for name, entry in scripts.items():
        module, function = entry.split(":")
        assert f"from {module} import {function}\n" in (tmp_path / name).read_text()


def test_what_is_shared_beside_the_package_exists() -> None:
    shared = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert all((REPOSITORY / source).is_dir() for source in shared)
