"""Destinations of mounts that a root file system's links lead to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_runtime.guest.share import settle_destinations


@pytest.mark.parametrize(
    ("destination", "settled"),
    [
        ("/var/run/secrets", "/run/absent/secrets"),
        ("/var/run", "/run/absent"),
        ("/var/run/../here", "/run/here"),
        ("/out/there", "/etc/there"),
        ("/relative", "/var/lib/deep"),
        ("/alive/new", "/run/new"),
        ("/alive/there", "/alive/there"),
        ("/new/deep", "/new/deep"),
        ("/loop/x", "/loop/x"),
        ("/file/x", "/file/x"),
        ("/", "/"),
    ],
)
def test_links_that_end_at_nothing_are_followed_inside_of_the_root(
    tmp_path: Path, destination: str, settled: str
) -> None:
    for directory in ("var/lib", "run/there", "etc"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, target in (
        ("var/run", "/run/absent"), ("out", "../../../../../etc/there/.."), ("relative", "var/lib/./deep"),
        ("alive", "/run"), ("loop", "loop"),
    ):  # fmt: skip
        (tmp_path / name).symlink_to(target)
    spec = {"root": {"path": str(tmp_path)}, "mounts": [{"destination": destination}]}
    settle_destinations(spec)
    assert spec["mounts"] == [{"destination": settled}]
