"""Kubernetes' container runtime interface, spoken to a private containerd."""
