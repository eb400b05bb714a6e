"""The host kernel's version and configuration, where the system shows it."""

from __future__ import annotations

import gzip
import os
import re
import zlib

from oci_runtime.check.item import OK, Item, absent
from oci_runtime.record import Record

_MAX_CONFIG_BYTES = 4 << 20
_OPTION = re.compile(r"^(CONFIG_[A-Z0-9_]+)=([ym])$", re.MULTILINE)
_OLDEST = (5, 12)


class Option(Record):
    """A kernel option. purpose: what it is for. needed: no pod runs without it."""

    name: str
    purpose: str
    needed: bool = False
    module: str = ""


OPTIONS = (
    Option(name="MEMFD_CREATE", purpose="guest memory", needed=True),
    Option(name="TUN", purpose="tap devices", needed=True, module="tun"),
    Option(name="NET_CLS_ACT", purpose="joining interfaces", needed=True),
    Option(name="NET_SCH_INGRESS", purpose="joining interfaces", needed=True, module="sch_ingress"),
    Option(name="NET_CLS_U32", purpose="joining interfaces", needed=True, module="cls_u32"),
    Option(name="NET_ACT_MIRRED", purpose="joining interfaces", needed=True, module="act_mirred"),
    Option(name="NET_SCH_TBF", purpose="rate limits", module="sch_tbf"),
    Option(name="MACVTAP", purpose='network.model = "macvtap"', module="macvtap"),
    Option(name="NF_TABLES_INET", purpose="port forwarding to localhost"),
    Option(name="NFT_REDIR", purpose="port forwarding to localhost", module="nft_redir"),
    Option(name="VHOST_NET", purpose="packets in the kernel instead of in QEMU", module="vhost_net"),
    Option(name="VHOST_VSOCK", purpose="the agent's channel over vsock", module="vhost_vsock"),
    Option(name="KVM", purpose="hardware virtualisation"),
    Option(name="OVERLAY_FS", purpose="the engines' image layers", module="overlay"),
    Option(name="SECCOMP_FILTER", purpose="QEMU's and virtiofsd's filters", needed=True),
)


def read_kernel_config(
    release: str, compressed: str = "/proc/config.gz", boot: str = "/boot", modules: str = "/lib/modules"
) -> tuple[str, dict[str, str]] | None:
    """Where the configuration was found, and its options that are y or m; None when nobody shows it."""
    directory = f"{modules}/{release}"
    for path in (compressed, f"{boot}/config-{release}", f"{directory}/config", f"{directory}/build/.config"):
        try:
            with gzip.open(path) if path == compressed else open(path, "rb") as file:
                text = file.read(_MAX_CONFIG_BYTES)
        except (OSError, EOFError, zlib.error):
            continue
        return path, dict(_OPTION.findall(text.decode("ascii", "replace")))
    return None


def check_version(release: str) -> Item:
    """mount_setattr, the youngest system call that pods need, is of Linux 5.12."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers < _OLDEST:
        return absent("kernel", release, "vmpod needs Linux 5.12 or newer", needed=True)
    return Item(name="kernel", status=OK, found=release)


def check_config(release: str, config: tuple[str, dict[str, str]] | None) -> list[Item]:
    """An item for each option that is off, and one for the configuration as a whole. Pure."""
    if config is None:
        remedy = "nothing to do when all else is ok; modprobe configs shows /proc/config.gz on some kernels"
        return [absent("kernel config", f"that of {release} is not shown on this system", remedy, needed=False)]
    path, values = config
    items, there = [], []
    for option in OPTIONS:
        name = f"CONFIG_{option.name}"
        if name in values:
            there.append(f"{option.name}={values[name]}")
        else:
            remedy = f"a kernel with {name} ({option.purpose})"
            items.append(absent(name, "not set", remedy, needed=option.needed))
    return [Item(name="kernel config", status=OK, found=f"{path}: {' '.join(there)}"), *items]


def check_modules(
    release: str, values: dict[str, str], modules: str = "/lib/modules", loaded: str = "/sys/module"
) -> list[Item]:
    """An item for each option whose module is neither loaded nor installed. values: see read_kernel_config."""
    try:
        with open(f"{modules}/{release}/modules.dep", encoding="utf-8", errors="replace") as file:
            listing = file.read().replace("-", "_")
    except OSError:
        listing = ""
    items = []
    for option in OPTIONS:
        is_module = values.get(f"CONFIG_{option.name}") == "m" and option.module
        if not is_module or os.path.isdir(f"{loaded}/{option.module}") or f"/{option.module}.ko" in listing:
            continue
        remedy = f"install the modules of kernel {release}, then modprobe {option.module} ({option.purpose})"
        items.append(absent(f"module {option.module}", "neither loaded nor installed", remedy, needed=option.needed))
    return items
