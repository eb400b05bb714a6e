"""Values of every kind where the host reads what others have written: one line that says what is wrong, or it works.

A short version of runs with many thousand examples.
"""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci_runtime.agent.validate import check
from oci_runtime.annotations.route import Policy, route
from oci_runtime.annotations.sizing import plan_size
from oci_runtime.bundle.default import default_spec
from oci_runtime.bundle.load import load_bundle
from oci_runtime.cli.ps import format_row
from oci_runtime.cli.timeline import draw_waterfall, read_phases
from oci_runtime.config.derive import size_limits
from oci_runtime.config.load import load_config
from oci_runtime.errors import NotFound, OciRuntimeError
from oci_runtime.guest.spec import plan_container
from oci_runtime.host.processes import boot_id
from oci_runtime.network import forms
from oci_runtime.sandbox.stats import process_row, runc_stats
from oci_runtime.shim.metrics import Overhead, pack_metrics
from oci_runtime.state import delegated, records
from oci_runtime.state.layout import Layout
from oci_runtime.state.records import ContainerRecord
from oci_runtime.state.sandboxes import SandboxRecord
from oci_runtime.ttrpc.proto import agent_pb2 as pb
from tests.unit.test_bundle_schema import ACTIONS, GOLDEN, places, put
from tests.unit.test_guest_spec import FACTS

SOME = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ODD: list[Any] = [
    *("", "\0", "\x1b[2J", "a\nb", "../x", "/proc/1/ns/net", "x" * 3000, "9" * 400, "slice:a:b", "size=-1", "stopped"),
    *(None, True, -1, 0, 2**63, 2**64, 10**30, 1e308, [], {}, [None], {"": {}}, {"a": [{}]}),
]
VALUES = st.sampled_from(ODD) | st.integers() | st.text(max_size=5)


def mutate(data: st.DataObject, document: dict[str, Any]) -> bytes:
    """The document as JSON with one to three places changed, sometimes with broken bytes."""
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(changed)
        if found:
            changed = put(changed, data.draw(st.sampled_from(found)), data.draw(ACTIONS), data.draw(VALUES))
    text = json.dumps(changed).encode()
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))] + data.draw(st.binary(max_size=3))
    return text


def is_one_line(error: OciRuntimeError) -> bool:
    return bool(error.message) and "\n" not in error.message and "\x1b" not in error.message


@SOME
@given(data=st.data())
def test_a_bundle_is_refused_in_one_line_or_can_be_planned(tmp_path_factory: Any, data: st.DataObject) -> None:
    bundle: Path = tmp_path_factory.getbasetemp() / "hostile"
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    source = {**default_spec(), "annotations": {"io.kubernetes.cri-o.ContainerType": "sandbox"}}
    base = data.draw(st.sampled_from([source, *({**raw, "root": {"path": "rootfs"}} for raw in GOLDEN.values())]))
    (bundle / "config.json").write_bytes(mutate(data, base))
    try:
        loaded = load_bundle(str(bundle))
        route(loaded.spec, "c1", Policy(host_pid="vm", host_ipc="vm"))
        plan_size(loaded.spec, size_limits(load_config("")))
        if loaded.spec.process is not None:
            plan_container(copy.deepcopy(loaded.raw), "c1", FACTS)
    except OciRuntimeError as error:
        assert is_one_line(error), error.message


CONTAINER = {
    "id": "c1", "status": "running", "pid": 1, "pid_start": 2, "bundle": "/b", "annotations": {"a": "b"},
    "sandbox_id": "c1", "boot_id": boot_id(), "hooks": {"poststop": [{"path": "/h"}]}, "cgroups": ["/sys/fs/cgroup/x"],
}  # fmt: skip
SANDBOX = {
    "id": "c1", "boot_id": boot_id(), "pid": 1, "pid_start": 2, "created": "now", "qemu": {"pid": 3, "pid_start": 4},
    "resources": [{"kind": "mount", "path": "/m"}, {"kind": "process", "pid": 5, "pid_start": 6}],
}  # fmt: skip
TIMELINE = {"phases": [{"name": "boot", "start_ms": 0.0, "duration_ms": 12.5}]}


@SOME
@given(data=st.data())
def test_a_damaged_record_is_an_error_in_one_line_or_can_be_used(tmp_path_factory: Any, data: st.DataObject) -> None:
    layout = Layout(str(tmp_path_factory.getbasetemp() / "damaged"))
    for path in (layout.container("c1"), layout.sandbox("c1"), os.path.dirname(layout.delegated("c1"))):
        os.makedirs(path, exist_ok=True)
    Path(layout.state_file("c1")).write_bytes(mutate(data, CONTAINER))
    Path(layout.sandbox("c1"), "sandbox.json").write_bytes(mutate(data, SANDBOX))
    Path(layout.sandbox("c1"), "timeline.json").write_bytes(mutate(data, TIMELINE))
    Path(layout.delegated("c1")).write_bytes(mutate(data, {"runtime": "/bin/crun", "options": ["--root", "/r"]}))
    try:
        record = records.load(layout, "c1")
        assert isinstance(record, ContainerRecord) and json.dumps(record.oci_state())
    except OciRuntimeError as error:
        assert is_one_line(error), error.message
    try:
        sandbox = SandboxRecord.load(layout.sandbox("c1"))
        assert sandbox is not None and (sandbox.id, sandbox.resources, sandbox.is_of_this_boot) is not None
    except OciRuntimeError as error:
        assert is_one_line(error), error.message
    try:
        found = delegated.load(layout, "c1")
        assert found is not None and all(isinstance(word, str) for word in (found.runtime, *found.options))
    except OciRuntimeError as error:
        assert is_one_line(error), error.message


@SOME
@given(data=st.data())
def test_a_damaged_timeline_is_drawn_as_far_as_it_goes(tmp_path_factory: Any, data: st.DataObject) -> None:
    directory = tmp_path_factory.getbasetemp() / "timelines"
    directory.mkdir(exist_ok=True)
    (directory / "timeline.json").write_bytes(mutate(data, TIMELINE))
    try:
        lines = draw_waterfall(read_phases(str(directory), "c1")).splitlines()
    except NotFound as error:
        assert is_one_line(error)
    else:
        assert lines[0].startswith("phase")


def fill(draw: Any, message: Message) -> None:
    """Give most fields of a message values, extreme ones among them."""
    ranges = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }

    def scalar(field: Any) -> Any:
        if field.cpp_type in ranges:
            low, high = ranges[field.cpp_type]
            return draw(st.sampled_from([low, 0, 1, min(high, 2**53), high]))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return draw(st.binary(max_size=4))
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return draw(st.booleans())
        return draw(st.sampled_from(["10.0.0.1", "fd00::1", "eth0", "", "../../x", "default"]))

    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if draw(st.integers(0, 3)) == 0:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key in ("usage_usec", "throttled_usec", "anon", "max"):
                value[key] = scalar(field.message_type.fields_by_name["value"])
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                if field.message_type:
                    fill(draw, value.add())
                else:
                    value.append(scalar(field))
        elif field.message_type:
            fill(draw, value)
        else:
            setattr(message, field.name, scalar(field))


@SOME
@given(data=st.data())
def test_what_the_guest_answers_is_refused_or_can_be_shown(data: st.DataObject) -> None:
    stats, network, processes = pb.StatsContainerResponse(), pb.ListNetworkResponse(), pb.ListProcessesResponse()
    for message in (stats, network, processes):
        fill(data.draw, message)
        try:
            check("Method", message)
        except OciRuntimeError as error:
            assert is_one_line(error)
            message.Clear()
    assert json.dumps(runc_stats(stats))
    for unified in (False, True):
        pack_metrics(stats, Overhead(cpu_usec=1 << 44, memory_bytes=1 << 44), unified=unified)
    assert json.dumps([forms.show_interface(entry) for entry in network.interfaces]) is not None
    assert json.dumps([forms.show_route(entry) for entry in network.routes]) is not None
    assert all("\n" not in format_row(process_row(row), time.time()) for row in processes.processes)
