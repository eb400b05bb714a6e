"""A busybox image made on the spot: one archive that containerd, Docker and podman all load, from no registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from conformance.bundle import BUSYBOX, GROUP, PASSWD, PATH, applets

NAME = "conformance.local/busybox:1"
DIRECTORIES = "bin dev etc home mnt opt proc root run sys tmp usr usr/bin usr/sbin var".split()


def _layer() -> bytes:
    """Return an uncompressed layer: busybox, a hard link per applet, the usual directories and account files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in DIRECTORIES:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        program = Path(BUSYBOX).read_bytes()
        _add_file(archive, "bin/busybox", program, 0o755)
        for applet in applets():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            archive.addfile(link)
        _add_file(archive, "etc/passwd", PASSWD.encode(), 0o644)
        _add_file(archive, "etc/group", GROUP.encode(), 0o644)
    return stream.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(media_type: str, data: bytes) -> dict[str, object]:
    return {
        "mediaType": f"application/vnd.oci.image.{media_type}",
        "digest": f"sha256:{_digest(data)}",
        "size": len(data),
    }


def write_image(path: Path, name: str = NAME, command: tuple[str, ...] = ("sh",)) -> None:
    """Write the archive: an OCI image layout whose blobs also carry the manifest of `docker save`."""
    layer = _layer()
    packed = gzip.compress(layer, compresslevel=1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": [PATH], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _blob("config.v1+json", config),
            "layers": [_blob("layer.v1.tar+gzip", packed)],
        }
    ).encode()
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [_blob("manifest.v1+json", manifest) | {"annotations": names}]}
    saved = [
        {"Config": f"blobs/sha256/{_digest(config)}", "RepoTags": [name], "Layers": [f"blobs/sha256/{_digest(packed)}"]}
    ]
    with tarfile.open(path, "w") as archive:
        _add_file(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644)
        _add_file(archive, "index.json", json.dumps(index).encode(), 0o644)
        _add_file(archive, "manifest.json", json.dumps(saved).encode(), 0o644)
        for data in (config, packed, manifest):
            _add_file(archive, f"blobs/sha256/{_digest(data)}", data, 0o644)
