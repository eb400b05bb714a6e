"""Build QEMU's command line: a pure function from settings and descriptor numbers to a tuple of strings.

Names follow QEMU 7.2's own. QEMU opens no path of its own: kernel, initrd and image are inherited descriptors reached
through /proc/self/fd, so that what the store verified is what boots, and QEMU's uid needs no way into the directories.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput
from oci_runtime.record import Record
from oci_runtime.vm.confinement import SHARE_PLACE

MIB = 1 << 20
AGENT_PORT_NAME = "vmpod.agent"
MACHINES = ("q35", "pc")
ACCELERATORS = ("kvm", "tcg")
TRANSPORTS = ("serial", "vsock")
IMAGE_DEVICES = ("virtio-pmem", "nvdimm")
MAX_ROOT_PORTS = 16
# Without `erms` the guest copies and clears memory by words: QEMU emulates each byte of `rep movsb` (0.2 s per boot).
CPUS = {"kvm": "host,pmu=off", "tcg": "max,-erms"}
# Slots of the root bus: our devices are 1-7, hot-plug starts at 8; 31 is q35's LPC bridge.
FIRST_HOTPLUG_SLOT = 8
PC_HOTPLUG_SLOTS = tuple(range(FIRST_HOTPLUG_SLOT, 32))
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class VmSettings(Record):
    """One machine.

    kernel, initrd, image: paths, opened by launch_qemu; QEMU gets descriptors. image_bytes: size of the root image, a
    multiple of 2 MiB. machine: q35 or pc. accel: kvm or tcg, transport: serial or vsock (accel.py resolves `auto`).
    max_memory_mib: what memory can grow to, 0: no growth. tb_size_mib: bound of TCG's translation buffer. root_ports:
    hot-plug places of q35. cpu: QEMU's CPU model, empty for the accelerator's default. cid: vsock address, 3 to 2^32-2.
    tsc_khz: rate of the host's time stamp counter, which an emulated guest reads; 0: the guest measures it.
    firmware: a BIOS image, empty for the fastest that QEMU brings. share: a directory of the host that QEMU serves over
    9p, empty for none; share_tag: by which the guest mounts it; share_stage: a directory over which launch_qemu makes
    QEMU's root. uid, gid: what QEMU runs as; None: as the caller.
    """

    kernel: str
    initrd: str
    image: str
    image_bytes: int
    kernel_parameters: tuple[str, ...] = ()
    name: str = "vmpod"
    machine: str = "q35"
    accel: str = "tcg"
    transport: str = "serial"
    image_device: str = "virtio-pmem"
    vcpus: int = 1
    memory_mib: int = 512
    max_memory_mib: int = 0
    tb_size_mib: int = 80
    root_ports: int = 8
    cpu: str = ""
    cid: int = 0
    tsc_khz: int = 0
    firmware: str = ""
    share: str = ""
    share_tag: str = ""
    share_stage: str = ""
    qemu: str = "qemu-system-x86_64"
    uid: int | None = None
    gid: int = 0


class QemuFds(Record):
    """Descriptor numbers inside QEMU.

    Exactly one of agent (serial) and vhost_vsock (vsock) is set; without firmware QEMU uses its default one.
    """

    qmp: int
    console: int
    kernel: int
    initrd: int
    image: int
    firmware: int | None = None
    agent: int | None = None
    vhost_vsock: int | None = None


def plan_qemu_argv(settings: VmSettings, fds: QemuFds) -> tuple[str, ...]:
    """Return the whole command line. Raises: InvalidInput naming the setting that cannot work."""
    _check(settings, fds)
    return (
        settings.qemu,
        *("-name", f"{settings.name},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-rtc", "base=utc"),
        *_machine(settings, fds),
        *_kernel(settings, fds),
        *_image(settings, fds),
        *_control(fds),
        *_agent(settings, fds),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng0,addr=0x3,max-bytes=4096,period=100"),
        *("-device", "virtio-balloon-pci,id=balloon0,addr=0x4,free-page-reporting=on,deflate-on-oom=on"),
        *("-device", "pvpanic-pci,addr=0x5"),
        *_share(settings),
        *_hotplug_ports(settings),
    )


def _check(settings: VmSettings, fds: QemuFds) -> None:
    for key, value, allowed in (
        ("machine", settings.machine, MACHINES),
        ("accel", settings.accel, ACCELERATORS),
        ("transport", settings.transport, TRANSPORTS),
        ("image_device", settings.image_device, IMAGE_DEVICES),
    ):
        if value not in allowed:
            raise InvalidInput(f"{key} = {value!r}: not one of {', '.join(allowed)}")
    for key, number, low, high in (
        ("vcpus", settings.vcpus, 1, 255),
        ("memory_mib", settings.memory_mib, 64, 1 << 24),
        ("root_ports", settings.root_ports, 1, MAX_ROOT_PORTS),
        ("tb_size_mib", settings.tb_size_mib, 8, 4096),
    ):
        if not low <= number <= high:
            raise InvalidInput(f"{key} = {number}: must be {low} to {high}")
    if settings.image_bytes <= 0 or settings.image_bytes % (2 * MIB):
        raise InvalidInput(f"image {settings.image}: its size {settings.image_bytes} is not a multiple of 2 MiB")
    if settings.transport == "vsock" and not 3 <= settings.cid < (1 << 32) - 1:
        raise InvalidInput(f"cid = {settings.cid}: must be 3 to {(1 << 32) - 2}")
    if (fds.agent is None) == (settings.transport == "serial") or (fds.vhost_vsock is None) == (
        settings.transport == "vsock"
    ):
        raise InvalidInput(f"transport = {settings.transport!r}: the descriptors given are for another one")
    if "," in settings.name:
        raise InvalidInput(f"name = {settings.name!r}: a comma has a meaning of its own for QEMU")


def _machine(settings: VmSettings, fds: QemuFds) -> tuple[str, ...]:
    """Guest memory is a shared memfd: vhost-user devices (virtiofsd) map it."""
    options = [settings.machine, "memory-backend=ram", "usb=off", "vmport=off"]
    options += ["sata=off", "smbus=off"] if settings.machine == "q35" else []
    options += ["hpet=off"] if settings.accel == "kvm" else []
    options += ["nvdimm=on"] if settings.image_device == "nvdimm" else []
    accel = "kvm" if settings.accel == "kvm" else f"tcg,tb-size={settings.tb_size_mib}"
    memory_mib = settings.memory_mib
    # The image is a memory device: it lies in the hot-plug region, which therefore must have room for it.
    image_mib = -(-settings.image_bytes // MIB)
    max_mib = max(settings.max_memory_mib, memory_mib) + image_mib + 1024
    firmware = () if fds.firmware is None else ("-bios", f"/proc/self/fd/{fds.firmware}")
    return (
        *("-machine", ",".join(options)),
        *("-accel", accel),
        *("-cpu", settings.cpu or CPUS[settings.accel]),
        *("-smp", f"cpus={settings.vcpus},sockets=1,cores={settings.vcpus},threads=1"),
        *("-m", f"size={memory_mib}M,slots=8,maxmem={max_mib}M"),
        *("-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on,prealloc=off"),
        *firmware,
    )


def _kernel(settings: VmSettings, fds: QemuFds) -> tuple[str, ...]:
    return (
        *("-kernel", f"/proc/self/fd/{fds.kernel}"),
        *("-initrd", f"/proc/self/fd/{fds.initrd}"),
        *("-append", " ".join((*settings.kernel_parameters, *machine_parameters(settings)))),
    )


def machine_parameters(settings: VmSettings) -> tuple[str, ...]:
    """Kernel parameters that follow from the machine, unless the settings name them too.

    Its console; and under emulation no address randomisation: relocating the whole kernel is slow there, and QEMU finds
    translated code again only at the same virtual address (crun and Python start twice as fast, measured). Nor does the
    kernel patch its own code for one CPU, or measure the local timer for 100 ms where the HPET does as well.
    """
    named = {parameter.partition("=")[0] for parameter in settings.kernel_parameters}
    wanted = ["console=ttyS0"]
    if settings.accel == "tcg":
        # Measured by an emulated guest on a busy host it can be wrong by a factor, and then so is the guest's clock.
        wanted += [f"tsc_early_khz={settings.tsc_khz}"] if settings.tsc_khz else []
        wanted += ["nokaslr", "norandmaps", "noreplace-smp", *(["nolapic_timer"] if settings.vcpus == 1 else [])]
    return tuple(parameter for parameter in wanted if parameter.partition("=")[0] not in named)


def _image(settings: VmSettings, fds: QemuFds) -> tuple[str, ...]:
    """The read-only root image: mapped shared, so that all machines use one copy in the host's page cache."""
    backend = (
        f"memory-backend-file,id=image,mem-path=/proc/self/fd/{fds.image},size={settings.image_bytes},"
        "share=on,readonly=on,prealloc=off"
    )
    if settings.image_device == "nvdimm":
        return ("-object", backend, "-device", "nvdimm,id=image0,memdev=image,unarmed=on")
    return ("-object", backend, "-device", "virtio-pmem-pci,id=image0,memdev=image,addr=0x6")


def _control(fds: QemuFds) -> tuple[str, ...]:
    """QMP and console. The console is an ISA serial port: it works before any driver, so early panics are seen."""
    return (
        *("-chardev", f"socket,id=qmp,fd={fds.qmp}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={fds.console}"),
        *("-serial", "chardev:console"),
    )


def _agent(settings: VmSettings, fds: QemuFds) -> tuple[str, ...]:
    if settings.transport == "vsock":
        return ("-device", f"vhost-vsock-pci,id=vsock0,addr=0x2,guest-cid={settings.cid},vhostfd={fds.vhost_vsock}")
    return (
        *("-device", "virtio-serial-pci,id=serial0,addr=0x2,max_ports=2"),
        *("-chardev", f"socket,id=agent,fd={fds.agent}"),
        *("-device", f"virtserialport,bus=serial0.0,nr=1,chardev=agent,name={AGENT_PORT_NAME}"),
    )


def _share(settings: VmSettings) -> tuple[str, ...]:
    """The 9p device, which unlike virtio-fs cannot come later. remap: files of several disks stay different files."""
    if not settings.share:
        return ()
    return (
        *("-fsdev", f"local,id=share0,path={SHARE_PLACE},security_model=passthrough,multidevs=remap"),
        *("-device", f"virtio-9p-pci,id=share0.device,fsdev=share0,mount_tag={settings.share_tag},addr=0x7"),
    )


def _hotplug_ports(settings: VmSettings) -> tuple[str, ...]:
    """q35 hot-plugs behind root ports, one device each; pc into free slots of its root bus."""
    if settings.machine == "pc":
        return ()
    ports: list[str] = []
    for index in range(settings.root_ports):
        address = FIRST_HOTPLUG_SLOT + index
        ports += ["-device", f"pcie-root-port,id=rp{index},bus=pcie.0,addr={address:#x},chassis={index + 1}"]
    return tuple(ports)
