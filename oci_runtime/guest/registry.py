"""The agent's methods: which module answers each, with which request, and in which way.

A handler is `handler(agent, request) -> message`. INLINE runs it in the event loop and it must not block; WORKER runs
it in a thread of its own, where it may. DEFERRED is `handler(agent, request, call) -> None`, runs in the event loop and
arranges that `call.reply(message)` or `call.fail(error)` happens later. Modules are imported at the first call, so that
what is rarely used costs no boot time.
"""

from __future__ import annotations

from oci_runtime.errors import Unsupported, WrongState
from oci_runtime.ttrpc.proto import agent_lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.server import Call

INLINE = 0
WORKER = 1
DEFERRED = 2

# method: (module of oci_runtime.guest, function, request message, way)
METHODS: dict[str, tuple[str, str, str, int]] = {
    "Hello": ("lifecycle", "hello", "HelloRequest", INLINE),
    "SetupSandbox": ("lifecycle", "setup_sandbox", "SetupSandboxRequest", WORKER),
    "SetClock": ("lifecycle", "set_clock", "SetClockRequest", INLINE),
    "Reseed": ("lifecycle", "reseed", "ReseedRequest", INLINE),
    "GuestDetails": ("details", "guest_details", "Empty", WORKER),
    "Diagnostics": ("details", "diagnostics", "Empty", WORKER),
    "NextEvent": ("events", "next_event", "NextEventRequest", DEFERRED),
    "Shutdown": ("lifecycle", "shutdown", "Empty", WORKER),
    "AddStorage": ("storage", "add_storage", "Storage", WORKER),
    "RemoveStorage": ("storage", "remove_storage", "RemoveStorageRequest", WORKER),
    "GetVolumeStats": ("volumes", "get_volume_stats", "VolumeRequest", WORKER),
    "ResizeVolume": ("volumes", "resize_volume", "VolumeRequest", WORKER),
    "SyncTree": ("trees", "sync_tree", "SyncTreeRequest", WORKER),
    "CreateContainer": ("containers", "create_container", "CreateContainerRequest", WORKER),
    "StartContainer": ("containers", "start_container", "ContainerRequest", WORKER),
    "WaitExecuted": ("containers", "wait_executed", "ContainerRequest", DEFERRED),
    "RemoveContainer": ("containers", "remove_container", "ContainerRequest", WORKER),
    "ExecProcess": ("processes", "exec_process", "ExecProcessRequest", WORKER),
    "SignalProcess": ("processes", "signal_process", "SignalProcessRequest", INLINE),
    "WaitProcess": ("processes", "wait_process", "ProcessRequest", DEFERRED),
    "RemoveProcess": ("processes", "remove_process", "ProcessRequest", INLINE),
    "ListProcesses": ("listing", "list_processes", "ContainerRequest", WORKER),
    "PauseContainer": ("cgroups", "pause_container", "ContainerRequest", WORKER),
    "ResumeContainer": ("cgroups", "resume_container", "ContainerRequest", WORKER),
    "UpdateContainer": ("update", "update_container", "UpdateContainerRequest", WORKER),
    "StatsContainer": ("stats", "stats_container", "ContainerRequest", WORKER),
    "WriteStdin": ("processes", "write_stdin", "WriteStdinRequest", DEFERRED),
    "CloseStdin": ("processes", "close_stdin", "ProcessRequest", INLINE),
    "CloseOutput": ("processes", "close_output", "ReadOutputRequest", INLINE),
    "ReadOutput": ("processes", "read_output", "ReadOutputRequest", DEFERRED),
    "ResizeTty": ("processes", "resize_tty", "ResizeTtyRequest", INLINE),
    "UpdateNetwork": ("network", "update_network", "UpdateNetworkRequest", WORKER),
    "ListNetwork": ("network", "list_network", "Empty", WORKER),
    "GetFirewall": ("firewall", "get_firewall", "FirewallRequest", WORKER),
    "SetFirewall": ("firewall", "set_firewall", "SetFirewallRequest", WORKER),
    "Dial": ("dial", "dial", "DialRequest", WORKER),
    "ConnRead": ("dial", "conn_read", "ConnReadRequest", DEFERRED),
    "ConnWrite": ("dial", "conn_write", "ConnWriteRequest", DEFERRED),
    "ConnClose": ("dial", "conn_close", "ConnCloseRequest", INLINE),
    "ServeResolver": ("resolver", "serve_resolver", "ServeResolverRequest", INLINE),
    "NextQuery": ("resolver", "next_query", "Empty", DEFERRED),
    "AnswerQuery": ("resolver", "answer_query", "Query", INLINE),
}


# Their data is written to a descriptor and need not be copied before.
_VIEWS = ("WriteStdinRequest", "ConnWriteRequest")


def dispatch(agent: Agent, call: Call, payload: bytes) -> None:
    """Answer one call, or arrange for it. Runs in the event loop; may raise: the caller turns it into a status."""
    row = METHODS.get(call.method)
    if row is None:
        raise Unsupported(f"the agent has no method {call.method!r}")
    if call.method == "Hello":
        call.supersede()
    elif not agent.greeted:
        raise WrongState(f"{call.method} before Hello")
    module, function, message, way = row
    request = getattr(agent_lean, message).FromString(payload, views=message in _VIEWS)
    if way == WORKER:
        agent.workers.submit(lambda: _work(agent, call, module, function, request))
        return
    handler = find_handler(module, function)
    if way == DEFERRED:
        handler(agent, request, call)
    else:
        call.reply(handler(agent, request))


def find_handler(module: str, function: str) -> Any:
    """Import a handler's module, at its first call, and return the handler."""
    return getattr(__import__(f"oci_runtime.guest.{module}", fromlist=(function,)), function)


def _work(agent: Agent, call: Call, module: str, function: str, request: object) -> None:
    try:
        agent.prepared.wait()
        handler = find_handler(module, function)
        call.reply(handler(agent, request))
    except BaseException as error:  # noqa: BLE001 - every call gets an answer
        call.fail(error)
