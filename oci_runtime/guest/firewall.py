"""The pod's packet filter: what iptables, of either family, shows and takes.

The pod's rules are those of the guest's own network namespace, which all its containers share. The programs are those
for nftables: rules that a container made with its own iptables-nft or nft are the same rules.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

MAX_RULES_BYTES = 3 << 20
_TIMEOUT_S = 30.0


def get_firewall(agent: Agent, request: pb.FirewallRequest) -> pb.FirewallResponse:
    """All tables as iptables-save writes them. Raises OciRuntimeError with the program's words."""
    program = "ip6tables-nft-save" if request.ipv6 else "iptables-nft-save"
    code, output, errors = agent.reaper.run([program], timeout_s=_TIMEOUT_S, max_output_bytes=MAX_RULES_BYTES)
    if code:
        raise OciRuntimeError(_failure(program, code, errors))
    if len(output) >= MAX_RULES_BYTES:
        raise OciRuntimeError(f"the guest's rules are larger than {MAX_RULES_BYTES} bytes")
    return pb.FirewallResponse(rules=output)


def set_firewall(agent: Agent, request: pb.SetFirewallRequest) -> pb.Empty:
    """Replace the tables that the rules name, atomically; other tables stay. Raises InvalidInput with what is wrong."""
    if len(request.rules) > MAX_RULES_BYTES:
        raise InvalidInput(f"rules of {len(request.rules)} bytes: at most {MAX_RULES_BYTES}")
    program = "ip6tables-nft-restore" if request.ipv6 else "iptables-nft-restore"
    code, _, errors = agent.reaper.run([program], timeout_s=_TIMEOUT_S, stdin=request.rules)
    if code:
        raise InvalidInput(_failure(program, code, errors))
    return pb.Empty()


def _failure(program: str, code: int, errors: bytes) -> str:
    words = errors.decode("utf-8", "replace").strip().replace("\n", "; ")
    return f"{program} in the guest: {words or f'exit code {code}'}"
