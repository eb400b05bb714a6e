"""Records, locks and recovery in a state directory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.cli import delete
from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, NotFound
from oci_runtime.host import files, processes
from oci_runtime.log import Sink, configure
from oci_runtime.state import records
from oci_runtime.state.layout import Layout, make_private_directory, short_id
from oci_runtime.state.locks import try_lock
from oci_runtime.state.records import ContainerRecord
from oci_runtime.state.recovery import UNDOERS, recover
from oci_runtime.state.sandboxes import SandboxRecord, sandbox_directories


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path / "run"))
    layout.prepare()
    return layout


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The file that log lines go to."""
    path = tmp_path / "log"
    configure(Sink(str(path)))
    yield path
    configure(Sink())


def alive(**values: Any) -> dict[str, Any]:
    """A record whose proxy is this very process."""
    me = os.getpid()
    return {
        "id": "c1",
        "status": "running",
        "pid": me,
        "pid_start": processes.start_time(me),
        "boot_id": processes.boot_id(),
        "bundle": "/b",
    } | values


def test_a_record_comes_back_as_it_was(layout: Layout) -> None:
    records.claim(layout, "c1")
    record = ContainerRecord(alive(hooks={"poststop": [{"path": "/bin/true"}]}, annotations={"a": "b"}))
    records.save(layout, record)
    assert records.load(layout, "c1").as_dict() == record.as_dict()
    assert os.stat(layout.state_file("c1")).st_mode & 0o777 == 0o600
    assert os.listdir(layout.container("c1")) == ["state.json"]
    assert records.list_ids(layout) == ["c1"]
    with pytest.raises(AlreadyExists, match="container with id exists: c1"):
        records.claim(layout, "c1")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, "running"),
        ({"status": "paused"}, "paused"),
        ({"status": "stopped"}, "stopped"),
        ({"pid_start": 1}, "stopped"),
        ({"pid": 0}, "stopped"),
        ({"boot_id": "another"}, "stopped"),
        ({"status": "creating"}, "stopped"),
        (
            {"status": "creating", "creator": os.getpid(), "creator_start": processes.start_time(os.getpid())},
            "creating",
        ),
        ({"status": "creating", "creator": os.getpid(), "creator_start": 1}, "stopped"),
    ],
)
def test_reality_wins(values: dict[str, Any], status: str) -> None:
    record = ContainerRecord(alive(**values))
    assert record.actual_status() == status
    assert record.oci_state()["pid"] == (0 if status == "stopped" else os.getpid())


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    start = processes.start_time(child.pid)
    assert processes.wait_process(child.pid, start, 10)
    assert start and not processes.is_alive(child.pid, start)
    assert processes.open_process(child.pid, start) == -1
    child.wait()
    assert processes.read_stat(child.pid) is None


def test_signals_reach_only_the_process_that_was_meant() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    start = processes.start_time(child.pid)
    assert not processes.signal_process(child.pid, start + 1, 9)
    assert not processes.wait_process(child.pid, start, 0)
    assert processes.end_process(child.pid, start, 10)
    assert child.wait() == -9


def test_the_state_document_has_runcs_keys() -> None:
    state = ContainerRecord(alive(annotations={"k": "v"})).oci_state()
    keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert list(state) == keys


def test_updates_do_not_bring_back_what_was_deleted(layout: Layout) -> None:
    assert records.update(layout, "c1", status="stopped") is None
    assert not os.path.exists(layout.container("c1"))
    records.claim(layout, "c1")
    records.save(layout, ContainerRecord(alive()))
    updated = records.update(layout, "c1", status="stopped", exit_code=3)
    assert updated is not None and updated.exit_code == 3
    assert records.load(layout, "c1").status == "stopped"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "c2"}', b"\xff\xfe", b"[" * 100000])
def test_damaged_records_are_told_from_missing_ones(layout: Layout, content: bytes) -> None:
    with pytest.raises(NotFound, match="container c1 does not exist"):
        records.load(layout, "c1")
    records.claim(layout, "c1")
    Path(layout.state_file("c1")).write_bytes(content)
    with pytest.raises(InvalidInput, match="record"):
        records.load(layout, "c1")


@pytest.mark.parametrize(
    "values",
    [
        {"pid": "1"},
        {"pid": -1},
        {"pid": 1 << 40},
        {"status": "odd"},
        {"annotations": []},
        {"annotations": {"a": 1}},
        {"hooks": None},
        {"hooks": {"poststop": ["x"]}},
        {"cgroups": [3]},
        {"exit_code": "0"},
    ],
)
def test_values_that_later_verbs_would_stumble_over_are_refused_with_the_file_named(
    layout: Layout, values: dict[str, Any]
) -> None:
    records.claim(layout, "c1")
    path = Path(layout.state_file("c1"))
    path.write_text(json.dumps(alive(**values)))
    with pytest.raises(InvalidInput, match=f"{path} is damaged: .*{next(iter(values))}.*delete --force"):
        records.load(layout, "c1")


def test_a_record_must_be_a_file(layout: Layout) -> None:
    records.claim(layout, "c1")
    os.mkfifo(layout.state_file("c1"))
    with pytest.raises(HostError):
        records.load(layout, "c1")


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(str(path), b"old")
    with pytest.raises(HostError, match="No such file"):
        files.write_atomic(str(tmp_path / "missing" / "file"), b"x")
    path.unlink()
    path.mkdir()
    with pytest.raises(HostError, match="rename"):
        files.write_atomic(str(path), b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_in_the_way_of_an_earlier_command_is_not(tmp_path: Path) -> None:
    # A killed command of the same pid, or somebody who can guess names.
    (tmp_path / f".file.{os.getpid()}").write_text("in the way")
    files.write_atomic(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_removal_follows_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    inside = tmp_path / "inside"
    (inside / "share" / "c1").mkdir(parents=True)
    (inside / "share" / "c1" / "file-mount").touch()
    (inside / "link").symlink_to(outside)
    (inside / "lock").touch()
    files.remove_flat(str(inside), keep="lock")
    assert not inside.exists() and (outside / "kept").exists()
    files.remove_flat(str(inside))
    (outside / "deep").mkdir()
    (outside / "deep" / "content").write_text("x")
    with pytest.raises(HostError):
        files.remove_flat(str(outside))
    assert (outside / "deep" / "content").exists()


def test_short_ids() -> None:
    for name in ("pod", "x" * 255):
        assert short_id(name) == hashlib.sha256(name.encode()).hexdigest()[:16]


def test_private_directories(tmp_path: Path) -> None:
    path = tmp_path / "state"
    make_private_directory(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    make_private_directory(str(path))
    path.chmod(0o770)
    with pytest.raises(InvalidInput, match="can be written by others"):
        make_private_directory(str(path))


# Locks


def test_a_lock_is_held_by_any_copy_of_its_descriptor(layout: Layout) -> None:
    directory = layout.sandbox("pod")
    with pytest.raises(FileNotFoundError):
        try_lock(directory)
    lock = try_lock(directory, create=True)
    assert lock is not None
    assert try_lock(directory) is None
    copy = os.dup(lock)
    os.close(lock)
    assert try_lock(directory, create=True) is None
    os.close(copy)
    again = try_lock(directory)
    assert again is not None
    os.close(again)


def test_the_lock_of_a_removed_directory_is_not_taken(layout: Layout) -> None:
    directory = layout.sandbox("pod")
    first = try_lock(directory, create=True)
    assert first is not None
    files.remove_flat(directory, keep="lock")
    second = try_lock(directory, create=True)
    assert second is not None
    assert os.fstat(first).st_ino != os.fstat(second).st_ino
    os.close(first)
    assert try_lock(directory) is None
    os.close(second)


def test_delete_waits_for_the_record_of_a_create_that_has_just_begun(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.claim(layout, "c1")
    monkeypatch.setattr("time.sleep", lambda _s: records.save(layout, ContainerRecord({"id": "c1"})))
    assert delete._load(layout, "c1").id == "c1"
    with pytest.raises(NotFound):
        delete._load(layout, "c2")


def test_a_state_directory_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in ("file", "file/below"):
        with pytest.raises(HostError, match=f"^mkdir {tmp_path}/file(/.sandboxes)?: Not a directory$"):
            Layout(str(tmp_path / root)).prepare()


def test_a_state_directory_goes_with_its_last_sandbox(layout: Layout) -> None:
    lock = try_lock(layout.sandbox("pod"), create=True)
    assert lock is not None
    layout.discard()
    assert os.path.isdir(layout.sandbox("pod"))
    files.remove_flat(layout.sandbox("pod"), keep="lock")
    os.close(lock)
    records.claim(layout, "c1")
    layout.discard()
    assert os.listdir(layout.root) == ["c1"], "a container without its sandbox keeps its record"
    os.rmdir(layout.container("c1"))
    layout.discard()
    assert not os.path.exists(layout.root)
    layout.discard()


def test_sandboxes_that_come_and_go_at_once_never_lose_their_state_directory(layout: Layout) -> None:
    def come_and_go(name: str) -> int:
        for _ in range(150):
            lock = try_lock(layout.sandbox(name), create=True)
            assert lock is not None
            assert os.listdir(layout.sandbox(name)) == ["lock"]
            files.remove_flat(layout.sandbox(name), keep="lock")
            layout.discard()
            os.close(lock)
        return 150

    names = [f"pod{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(come_and_go, names)) == [150] * 4
    assert not os.path.exists(layout.root)


def test_many_processes_get_one_lock(layout: Layout) -> None:
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from oci_runtime.state.locks import try_lock;"
        " lock = try_lock(sys.argv[2], create=True); print(lock is not None, flush=True); time.sleep(lock and 2 or 0)"
    )
    repository = str(Path(__file__).parent.parent.parent)
    command = [sys.executable, "-I", "-c", program, repository, layout.sandbox("pod")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    outputs = sorted(child.communicate(timeout=60)[0].strip() for child in children)
    assert outputs == ["False"] * 5 + ["True"]


# Recovery


def recorded(layout: Layout, resources: list[dict[str, Any]], **values: Any) -> str:
    directory = layout.sandbox("pod")
    os.mkdir(directory)
    record = SandboxRecord.new(directory, "pod", "now")
    record.values |= {"resources": resources} | values
    record.save()
    return directory


def test_resources_are_undone_from_the_newest(layout: Layout) -> None:
    undone: list[str] = []
    undoers = {"thing": lambda resource: undone.append(resource["name"])}
    directory = recorded(layout, [{"kind": "thing", "name": name} for name in "abc"])
    assert recover(directory, undoers) == []
    assert undone == ["c", "b", "a"]
    assert not os.path.exists(directory)


def test_undoing_continues_after_failures_and_keeps_the_record(layout: Layout) -> None:
    undone: list[str] = []

    def undo(resource: dict[str, Any]) -> None:
        if resource["name"] == "b":
            raise OSError(5, "stuck")
        undone.append(resource["name"])

    directory = recorded(layout, [{"kind": "thing", "name": name} for name in "abc"])
    (problem,) = recover(directory, {"thing": undo})
    assert "stuck" in problem
    assert undone == ["c", "a"]
    assert os.path.exists(os.path.join(directory, "sandbox.json"))
    assert recover(directory, {"thing": lambda _: None}) == []


def test_processes_named_in_the_record_end(layout: Layout) -> None:
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    entries = [{"pid": child.pid, "pid_start": processes.start_time(child.pid)} for child in children]
    other = {"kind": "process", "pid": entries[2]["pid"], "pid_start": entries[2]["pid_start"] + 1}
    directory = recorded(layout, [{"kind": "process", **entries[0]}, other], qemu=entries[1])
    assert recover(directory, UNDOERS) == []
    assert [child.poll() for child in children][2] is None
    assert [child.wait(10) for child in children[:2]] == [-9, -9]
    children[2].kill()
    children[2].wait()


def test_after_a_reboot_only_files_are_undone(layout: Layout, tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    pinned = tmp_path / "pinned"
    pinned.touch()
    start = processes.start_time(child.pid)
    resources: list[dict[str, Any]] = [
        {"kind": "process", "pid": child.pid, "pid_start": start},
        {"kind": "mount", "path": "/"},
        {"kind": "file", "path": str(pinned)},
    ]
    directory = recorded(layout, resources, boot_id="earlier")
    assert recover(directory, UNDOERS) == []
    assert child.poll() is None and not pinned.exists()
    child.kill()
    child.wait()


@pytest.mark.parametrize("resource", [{"kind": "unheard-of"}, {}])
def test_resources_of_unknown_kinds_are_problems(layout: Layout, resource: dict[str, Any]) -> None:
    assert len(recover(recorded(layout, [resource]), UNDOERS)) == 1


@pytest.mark.parametrize("resource", [{"kind": "process"}, {"kind": "process", "pid": "x", "pid_start": 1}])
def test_malformed_resources_do_not_keep_a_sandbox_for_ever(
    layout: Layout, log: Path, resource: dict[str, Any]
) -> None:
    assert recover(recorded(layout, [resource]), UNDOERS) == []
    assert "malformed resource of kind process" in log.read_text()
    assert list(sandbox_directories(layout)) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 5}', '{"resources": {}}', '{"boot_id": null}'])
def test_a_damaged_sandbox_record_is_named_and_removed(layout: Layout, log: Path, content: str) -> None:
    directory = layout.sandbox("pod")
    os.mkdir(directory)
    path = Path(directory, "sandbox.json")
    path.write_text(content)
    with pytest.raises(InvalidInput, match=f"record {path} is damaged"):
        SandboxRecord.load(directory)
    assert recover(directory, UNDOERS) == []
    assert f"record {path} is damaged" in log.read_text()
    assert list(sandbox_directories(layout)) == []


def test_resources_are_recorded_and_forgotten(layout: Layout) -> None:
    directory = recorded(layout, [])
    record = SandboxRecord.load(directory)
    assert record is not None and record.is_of_this_boot
    first, second = {"kind": "file", "path": "/1"}, {"kind": "file", "path": "/2"}
    record.add(first)
    record.add(second)
    record.remove(first)
    document = json.loads(Path(directory, "sandbox.json").read_text())
    assert document["resources"] == [second]
    again = SandboxRecord.load(directory)
    assert again is not None and again.id == "pod" and again.resources == [second]
