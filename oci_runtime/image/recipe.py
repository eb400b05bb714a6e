"""What goes into the guest image: packages, programs, kernel modules, boot parameters. Data only.

The hash of this package's sources is part of each cached tree's key, so a change here rebuilds the image.
"""

from __future__ import annotations

SUITE = "bookworm"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
# Fixed, so that two builds of the same inputs are the same bytes; SOURCE_DATE_EPOCH in the environment wins.
SOURCE_DATE_EPOCH = 1_735_689_600

PACKAGES = (
    "busybox-static",
    "crun",
    "iproute2",
    "iptables",
    "kmod",
    "libpython3-stdlib",
    "nftables",
    "python3-minimal",
)

# Programs of the guest, relative to /usr. Libraries follow from their ELF headers.
PROGRAMS = (
    "bin/busybox",
    "bin/crun",
    "bin/ip",
    "bin/kmod",
    "sbin/bridge",
    "sbin/nft",
    "sbin/tc",
    "sbin/xtables-nft-multi",
)
# Taken whole, relative to /usr/lib/<triplet>: plugins that are opened by name at run time.
PLUGIN_DIRECTORIES = ("xtables",)
CONFIGURATION = ("etc/iproute2", "etc/protocols")
# One program under several names (name below /usr/sbin -> target).
PROGRAM_LINKS = {
    **{name: "../bin/kmod" for name in ("depmod", "insmod", "lsmod", "modinfo", "rmmod")},
    "modprobe": "../bin/busybox",  # twice as fast to start: kmod is linked with libcrypto
    **{
        f"{family}{suffix}": "xtables-nft-multi"
        for family in ("iptables", "ip6tables", "iptables-nft", "ip6tables-nft")
        for suffix in ("", "-save", "-restore")
    },
}

# Parts of the standard library that an agent never needs (relative to its directory).
STDLIB_DROP = (
    "__phello__", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages",
    "sqlite3", "test", "tkinter", "turtledemo", "unittest", "venv", "wsgiref", "xmlrpc", "antigravity.py", "cgi.py",
    "cgitb.py", "doctest.py", "mailbox.py", "nntplib.py", "pdb.py", "pydoc.py", "smtplib.py", "telnetlib.py",
    "this.py", "turtle.py", "webbrowser.py",
)  # fmt: skip
# Extension modules whose libraries would be the only reason to carry them.
EXTENSION_DROP = (
    "_bz2", "_crypt", "_ctypes_test", "_curses", "_curses_panel", "_dbm", "_hashlib", "_lzma", "_sqlite3", "_ssl",
    "_testbuffer", "_testcapi", "_testclinic", "_testimportmultiple", "_testinternalcapi", "_testmultiphase",
    "_tkinter", "_xxtestfuzz", "audioop", "nis", "ossaudiodev", "readline", "xxlimited", "xxlimited_35",
)  # fmt: skip

# Kernel modules in the first-stage initrd: the root image and the agent's channel, nothing else. The second are for
# machines that have no virtio-serial port, or the image on an NVDIMM.
BOOT_MODULES = ("virtio_pci", "virtio_console", "virtio_pmem", "nd_pmem", "erofs")
DEVICE_MODULES = {"vsock": "vmw_vsock_virtio_transport", "nvdimm": "nfit"}

# Kernel modules that the agent loads by itself: they are listed with all that they need beyond BOOT_MODULES, as
# modprobe costs an emulated guest more than the modules do, and so does a search through what depmod writes.
AGENT_MODULES = ("virtiofs", "9p", "9pnet_virtio", "virtio_net")

# Kernel modules in the root image: names, or directories below kernel/ taken whole. Dependencies follow.
# What is built into the kernel needs no file; what the kernel lacks (9p in the cloud kernel) is listed in the manifest.
ROOT_MODULES = (
    # the machine's devices
    "virtio_pci", "virtio_console", "nfit", "nd_pmem", "virtio_pmem", "erofs", "vmw_vsock_virtio_transport",
    "virtio_blk", "virtio_net", "virtio_scsi", "virtio_balloon", "virtio-rng", "virtio_mem", "virtio_mmio",
    "sd_mod", "sg", "pvpanic-pci",
    # file systems and what lies under them
    "fuse", "virtiofs", "9p", "9pnet_virtio", "overlay", "ext4", "xfs", "btrfs", "isofs", "udf", "vfat", "squashfs",
    "nls_ascii", "nls_utf8", "nls_cp437", "nls_iso8859-1", "loop", "dm-mod", "dm-verity", "dm-crypt", "dm-snapshot",
    "zram", "binfmt_misc", "configfs", "xts", "essiv", "aesni-intel", "crc32c-intel",
    # network: links, firewall, queueing, diagnosis
    "tun", "tap", "veth", "dummy", "bridge", "br_netfilter", "bonding", "macvlan", "macvtap", "ipvlan", "ipvtap",
    "vxlan", "geneve", "ifb", "vrf", "8021q", "wireguard", "ipip", "sit", "ip_gre", "ip6_tunnel", "ip6_gre", "fou",
    "nlmon",
    "sctp", "tls", "tcp_bbr", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "raw_diag", "netlink_diag",
    "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_sh", "ip_vs_lc", "algif_hash", "algif_skcipher",
    "ts_kmp", "ts_bm", "ts_fsm",  # asked for by name by xt_string and some connection trackers
    "net/netfilter/", "net/ipv4/netfilter/", "net/ipv6/netfilter/", "net/bridge/netfilter/", "net/sched/",
)  # fmt: skip

# Steps of the kernel's start that no guest of ours needs: the tables of the tracer (its events, its search for weak
# functions), self-tests, keys for signed modules, a clock that the TSC replaces.
_NEEDLESS_INITCALLS = (
    "ftrace_check_for_weak_functions", "trace_eval_init", "tracer_init_tracefs", "init_kprobe_trace",
    "blake2s_mod_init", "crypto_kdf108_init", "load_system_certificate_list", "init_acpi_pm_clocksource",
)  # fmt: skip

# What every guest boots with, whatever the machine type; each was measured (docs/image.md).
KERNEL_PARAMETERS = (
    "quiet",
    "loglevel=1",  # not 0: with it a panic prints nothing
    "panic=-1",
    "oops=panic",  # a kernel that has lost a thread to a bug is no ground for containers: the pod ends, and says why
    "reboot=t",
    "no_timer_check",
    "tsc=reliable",
    "swiotlb=noforce",
    "random.trust_cpu=on",
    "cryptomgr.notests",
    "pcie_ports=compat",  # hot-plug is ACPI's; the ports' own services are not used
    "lsm=landlock,yama,bpf",  # no profiles are loaded in the guest; containers may restrict themselves
    f"initcall_blacklist={','.join(_NEEDLESS_INITCALLS)}",
)
