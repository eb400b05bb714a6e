"""Names of the annotations that engines write and vmpod reads. docs/annotations.md says what each one does."""

from __future__ import annotations

CRI_TYPE = "io.kubernetes.cri.container-type"
CRI_SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
CRI_UNTRUSTED = "io.kubernetes.cri.untrusted-workload"
CRI_CPU_PERIOD = "io.kubernetes.cri.sandbox-cpu-period"
CRI_CPU_QUOTA = "io.kubernetes.cri.sandbox-cpu-quota"
CRI_CPU_SHARES = "io.kubernetes.cri.sandbox-cpu-shares"
CRI_MEMORY = "io.kubernetes.cri.sandbox-memory"

CRIO_TYPE = "io.kubernetes.cri-o.ContainerType"
CRIO_SANDBOX_ID = "io.kubernetes.cri-o.SandboxID"
CRIO_TRUSTED = "io.kubernetes.cri-o.TrustedSandbox"
CRIO_HOST_NETWORK = "io.kubernetes.cri-o.HostNetwork"
CRIO_RESOURCES = "io.kubernetes.cri-o.PodLinuxResources"
CRIO_OVERHEAD = "io.kubernetes.cri-o.PodLinuxOverhead"

DOCKERSHIM_TYPE = "io.kubernetes.docker.type"
DOCKERSHIM_SANDBOX_ID = "io.kubernetes.sandbox.id"

OWN_SETTING_PREFIX = "io.vmpod.config."
REFERENCE_SETTING_PREFIX = "io.katacontainers.config."
